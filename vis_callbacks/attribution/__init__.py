"""Which pixels mattered: gradients, path methods, guided rules, class activation maps and occlusion."""
