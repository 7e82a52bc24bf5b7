"""Which image would the model love: image parameterisations, objectives, transforms, and one ascent loop."""
