"""The sample images: selection, labels, class names, normalization and targets."""
