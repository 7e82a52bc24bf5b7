"""Activation maximization: parameterizations, objectives, regularizers, transforms, recipes, and the ascent loop."""
