"""Lightning callbacks that show what an image classifier is learning while it trains."""

from vis_callbacks.attribution.ablation_cam import AblationCAM
from vis_callbacks.attribution.callback import AttributionCallback
from vis_callbacks.attribution.eigen_cam import EigenCAM
from vis_callbacks.attribution.grad_cam import GradCAM
from vis_callbacks.attribution.grad_cam_plus_plus import GradCAMPlusPlus
from vis_callbacks.attribution.gradient import Gradient, GradientXInput
from vis_callbacks.attribution.guided_grad_cam import GuidedGradCAM
from vis_callbacks.attribution.hires_cam import HiResCAM
from vis_callbacks.attribution.integrated_gradients import IntegratedGradients
from vis_callbacks.attribution.layer_cam import LayerCAM
from vis_callbacks.attribution.occlusion import Occlusion
from vis_callbacks.attribution.relu_rules import Deconvnet, GuidedBackprop
from vis_callbacks.attribution.saliency import Saliency
from vis_callbacks.attribution.score_cam import ScoreCAM
from vis_callbacks.attribution.smoothgrad import SmoothGrad
from vis_callbacks.attribution.xgrad_cam import XGradCAM
from vis_callbacks.callback import VisualizationCallback
from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import ConfigurationError, LayerError, VisualizationWarning
from vis_callbacks.event import Event, Moment, Needs
from vis_callbacks.inspection.activations import Activations
from vis_callbacks.inspection.filters import Filters
from vis_callbacks.inspection.maximal_patches import MaximalPatches
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.report.callback import Report
from vis_callbacks.suite import default_suite
from vis_callbacks.synthesis.class_appearance import ClassAppearance
from vis_callbacks.synthesis.deep_dream import DeepDream
from vis_callbacks.synthesis.feature_appearance import FeatureAppearance
from vis_callbacks.synthesis.feature_inversion import FeatureInversion
from vis_callbacks.synthesis.fool import FoolModel

__all__ = [
    "AblationCAM",
    "Activations",
    "AttributionCallback",
    "ClassAppearance",
    "ConfigurationError",
    "Deconvnet",
    "DeepDream",
    "EigenCAM",
    "Event",
    "FeatureAppearance",
    "FeatureInversion",
    "Filters",
    "FoolModel",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientXInput",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "IntegratedGradients",
    "LayerCAM",
    "LayerError",
    "MaximalPatches",
    "Moment",
    "Needs",
    "Occlusion",
    "Panel",
    "Report",
    "Saliency",
    "Samples",
    "ScoreCAM",
    "SmoothGrad",
    "Tile",
    "VisualizationCallback",
    "VisualizationWarning",
    "XGradCAM",
    "default_suite",
]
