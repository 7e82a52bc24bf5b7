"""The techniques as plain functions, for notebooks: a model and images in, tensors out."""

from vis_callbacks.attribution.saliency import saliency
from vis_callbacks.inspection.filters import filters
from vis_callbacks.synthesis.class_appearance import class_appearance

__all__ = ["class_appearance", "filters", "saliency"]
