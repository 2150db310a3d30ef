"""A finished run for others: model card, Hub, ONNX. Trains nothing."""
