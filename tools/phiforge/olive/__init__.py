"""The only importer of Olive and of the onnxruntime-genai builder: the subprocess driver and our Olive passes."""
