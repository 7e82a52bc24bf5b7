"""Lightning callbacks that show what an image classifier is learning while it trains."""

from typing import TYPE_CHECKING

from vis_callbacks._lazy import lazy_names

if TYPE_CHECKING:
    from vis_callbacks.attribution.ablation_cam import AblationCAM as AblationCAM
    from vis_callbacks.attribution.attention_relevance import AttentionRelevance as AttentionRelevance
    from vis_callbacks.attribution.attention_rollout import AttentionRollout as AttentionRollout
    from vis_callbacks.attribution.callback import AttributionCallback as AttributionCallback
    from vis_callbacks.attribution.eigen_cam import EigenCAM as EigenCAM
    from vis_callbacks.attribution.explanation_health import ExplanationHealth as ExplanationHealth
    from vis_callbacks.attribution.fine_cam import FineCAM as FineCAM
    from vis_callbacks.attribution.grad_cam import GradCAM as GradCAM
    from vis_callbacks.attribution.grad_cam_plus_plus import GradCAMPlusPlus as GradCAMPlusPlus
    from vis_callbacks.attribution.gradient import Gradient as Gradient, GradientXInput as GradientXInput
    from vis_callbacks.attribution.guided_grad_cam import GuidedGradCAM as GuidedGradCAM
    from vis_callbacks.attribution.hires_cam import HiResCAM as HiResCAM
    from vis_callbacks.attribution.integrated_gradients import IntegratedGradients as IntegratedGradients
    from vis_callbacks.attribution.layer_cam import LayerCAM as LayerCAM
    from vis_callbacks.attribution.occlusion import Occlusion as Occlusion
    from vis_callbacks.attribution.relu_rules import Deconvnet as Deconvnet, GuidedBackprop as GuidedBackprop
    from vis_callbacks.attribution.saliency import Saliency as Saliency
    from vis_callbacks.attribution.score_cam import ScoreCAM as ScoreCAM
    from vis_callbacks.attribution.smoothgrad import SmoothGrad as SmoothGrad
    from vis_callbacks.attribution.xgrad_cam import XGradCAM as XGradCAM
    from vis_callbacks.callback import VisualizationCallback as VisualizationCallback
    from vis_callbacks.data.normalization import Normalization as Normalization
    from vis_callbacks.data.samples import Samples as Samples
    from vis_callbacks.diagnostics.callback import Diagnostics as Diagnostics
    from vis_callbacks.diagnostics.finding import Finding as Finding
    from vis_callbacks.diagnostics.hard_samples import HardSamples as HardSamples
    from vis_callbacks.errors import (
        ConfigurationError as ConfigurationError,
        LayerError as LayerError,
        VisualizationWarning as VisualizationWarning,
    )
    from vis_callbacks.event import Event as Event, Moment as Moment, Needs as Needs
    from vis_callbacks.inspection.activations import Activations as Activations
    from vis_callbacks.inspection.attention import Attention as Attention
    from vis_callbacks.inspection.filters import Filters as Filters
    from vis_callbacks.inspection.input_images import InputImages as InputImages
    from vis_callbacks.inspection.maximal_patches import MaximalPatches as MaximalPatches
    from vis_callbacks.notebook.look import look as look
    from vis_callbacks.notebook.show import show as show
    from vis_callbacks.panel import Panel as Panel, Tile as Tile
    from vis_callbacks.report.callback import Report as Report
    from vis_callbacks.suite import DefaultSuite as DefaultSuite, default_suite as default_suite
    from vis_callbacks.synthesis.class_appearance import ClassAppearance as ClassAppearance
    from vis_callbacks.synthesis.deep_dream import DeepDream as DeepDream
    from vis_callbacks.synthesis.feature_appearance import FeatureAppearance as FeatureAppearance
    from vis_callbacks.synthesis.feature_inversion import FeatureInversion as FeatureInversion
    from vis_callbacks.synthesis.fool import Fooled as Fooled, FoolModel as FoolModel
    from vis_callbacks.synthesis.optimization.feature_prior import collect_statistics as collect_statistics
    from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics as ImageStatistics
    from vis_callbacks.synthesis.optimization.recipes import Recipe as Recipe

    __version__: str
else:
    _load, __dir__, __all__ = lazy_names(__name__)

    def __getattr__(name: str) -> object:
        """Import a public name, or read the installed version."""
        if name != "__version__":
            return _load(name)
        from importlib.metadata import version

        return version("vis-callbacks")
