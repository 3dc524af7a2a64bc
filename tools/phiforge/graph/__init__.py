"""Everything done to ONNX graphs, with onnx_ir: binding weights, inspection, accounting. No runtime is needed."""
