"""Runs a variant: the only importer of onnxruntime and onnxruntime_genai."""
