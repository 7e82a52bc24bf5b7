"""The techniques as plain functions, for notebooks: a model and images in, tensors out."""

from vis_callbacks.attribution.ablation_cam import ablation_cam
from vis_callbacks.attribution.eigen_cam import eigen_cam
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.attribution.grad_cam_plus_plus import grad_cam_plus_plus
from vis_callbacks.attribution.gradient import gradient, gradient_x_input
from vis_callbacks.attribution.guided_grad_cam import guided_grad_cam
from vis_callbacks.attribution.hires_cam import hires_cam
from vis_callbacks.attribution.integrated_gradients import integrated_gradients
from vis_callbacks.attribution.layer_cam import layer_cam
from vis_callbacks.attribution.occlusion import occlusion
from vis_callbacks.attribution.relu_rules import deconvnet, guided_backprop
from vis_callbacks.attribution.saliency import saliency
from vis_callbacks.attribution.score_cam import score_cam
from vis_callbacks.attribution.smoothgrad import smoothgrad
from vis_callbacks.attribution.xgrad_cam import xgrad_cam
from vis_callbacks.inspection.activations import activations
from vis_callbacks.inspection.filters import filters
from vis_callbacks.inspection.maximal_patches import maximal_patches
from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.deep_dream import deep_dream
from vis_callbacks.synthesis.feature_appearance import feature_appearance
from vis_callbacks.synthesis.feature_inversion import feature_inversion
from vis_callbacks.synthesis.fool import fool

__all__ = [
    "ablation_cam",
    "activations",
    "class_appearance",
    "deconvnet",
    "deep_dream",
    "eigen_cam",
    "feature_appearance",
    "feature_inversion",
    "filters",
    "fool",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_x_input",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "integrated_gradients",
    "layer_cam",
    "maximal_patches",
    "occlusion",
    "saliency",
    "score_cam",
    "smoothgrad",
    "xgrad_cam",
]
