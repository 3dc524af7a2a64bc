"""The checkpoint's decoder in torch, one layer in memory at a time: for the drift reference and for calibration."""
