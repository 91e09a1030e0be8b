"""Convert an ONNX graph to a torch.fx module."""
