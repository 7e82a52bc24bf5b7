"""A good set of callbacks to start with."""

from vis_callbacks.attribution.grad_cam import GradCAM
from vis_callbacks.attribution.saliency import Saliency
from vis_callbacks.inspection.activations import Activations
from vis_callbacks.inspection.filters import Filters
from vis_callbacks.model.subject import Forward
from vis_callbacks.report.callback import Report
from vis_callbacks.run.hooks import RunHooks
from vis_callbacks.synthesis.class_appearance import ClassAppearance


def default_suite(*, budget: float | None = 0.05, forward: Forward = None) -> list[RunHooks]:
    """Return callbacks that together show much in little time, with a report at the end.

    Args:
        budget: Share of the training time that all of them together may take. None: no bound.
        forward: What all of them show, see `VisualizationCallback`.

    Example:
        >>> [type(callback).__name__ for callback in default_suite()]
        ['Filters', 'Activations', 'Saliency', 'GradCAM', 'ClassAppearance', 'Report']
    """
    # All look at the same samples, so that one pass serves them.
    looking = [Activations(depth=2, max_channels=16, samples=4), Saliency(samples=4), GradCAM(samples=4)]
    return [Filters(), *looking, ClassAppearance(samples=4), Report(budget=budget, forward=forward)]
