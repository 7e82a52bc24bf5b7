"""What is inside a model: filters, activations, patches."""
