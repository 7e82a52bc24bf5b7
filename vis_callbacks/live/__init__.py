"""The live page: a tab in TensorBoard, and the same page by a server of its own."""
