"""The techniques as plain functions, for notebooks: a model and images in, tensors out."""

from typing import TYPE_CHECKING

from vis_callbacks._lazy import lazy_names

if TYPE_CHECKING:
    from vis_callbacks.attribution.ablation_cam import ablation_cam as ablation_cam
    from vis_callbacks.attribution.attention_relevance import attention_relevance as attention_relevance
    from vis_callbacks.attribution.attention_rollout import attention_rollout as attention_rollout
    from vis_callbacks.attribution.eigen_cam import eigen_cam as eigen_cam
    from vis_callbacks.attribution.fine_cam import fine_cam as fine_cam
    from vis_callbacks.attribution.grad_cam import grad_cam as grad_cam
    from vis_callbacks.attribution.grad_cam_plus_plus import grad_cam_plus_plus as grad_cam_plus_plus
    from vis_callbacks.attribution.gradient import gradient as gradient, gradient_x_input as gradient_x_input
    from vis_callbacks.attribution.guided_grad_cam import guided_grad_cam as guided_grad_cam
    from vis_callbacks.attribution.hires_cam import hires_cam as hires_cam
    from vis_callbacks.attribution.integrated_gradients import integrated_gradients as integrated_gradients
    from vis_callbacks.attribution.layer_cam import layer_cam as layer_cam
    from vis_callbacks.attribution.occlusion import occlusion as occlusion
    from vis_callbacks.attribution.relu_rules import deconvnet as deconvnet, guided_backprop as guided_backprop
    from vis_callbacks.attribution.saliency import saliency as saliency
    from vis_callbacks.attribution.score_cam import score_cam as score_cam
    from vis_callbacks.attribution.smoothgrad import smoothgrad as smoothgrad
    from vis_callbacks.attribution.xgrad_cam import xgrad_cam as xgrad_cam
    from vis_callbacks.inspection.activations import activations as activations
    from vis_callbacks.inspection.attention import attention as attention
    from vis_callbacks.inspection.filters import filters as filters
    from vis_callbacks.inspection.maximal_patches import maximal_patches as maximal_patches
    from vis_callbacks.synthesis.class_appearance import class_appearance as class_appearance
    from vis_callbacks.synthesis.deep_dream import deep_dream as deep_dream
    from vis_callbacks.synthesis.feature_appearance import feature_appearance as feature_appearance
    from vis_callbacks.synthesis.feature_inversion import feature_inversion as feature_inversion
    from vis_callbacks.synthesis.fool import fool as fool
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__)
