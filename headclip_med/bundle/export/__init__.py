"""A detector as one file that runs without headclip_med's own code: exporting it, and running the ONNX form."""
