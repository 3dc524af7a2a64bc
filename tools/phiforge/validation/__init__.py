"""Proves what a variant costs: drift from the original checkpoint, answers, probes, latency."""
