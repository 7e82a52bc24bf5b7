"""Lightning callbacks that show what an image classifier is learning while it trains."""

from vis_callbacks.attribution.saliency import Saliency
from vis_callbacks.callback import VisualizationCallback
from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.event import Event, Moment, Needs
from vis_callbacks.inspection.filters import Filters
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.report.callback import Report
from vis_callbacks.run import VisualizationWarning
from vis_callbacks.samples import Samples
from vis_callbacks.synthesis.class_appearance import ClassAppearance

__all__ = [
    "ClassAppearance",
    "ConfigurationError",
    "Event",
    "Filters",
    "LayerError",
    "Moment",
    "Needs",
    "Panel",
    "Report",
    "Saliency",
    "Samples",
    "Tile",
    "VisualizationCallback",
    "VisualizationWarning",
]
