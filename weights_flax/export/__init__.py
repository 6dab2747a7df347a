"""Networks for inference and for other programs: folding, StableHLO, ONNX."""
