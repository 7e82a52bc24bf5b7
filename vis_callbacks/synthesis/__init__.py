"""Feature visualization: images made by optimization. The names here are what its functions take and return."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vis_callbacks.synthesis.fool import Fooled as Fooled
    from vis_callbacks.synthesis.optimization.feature_prior import FeatureMoments as FeatureMoments
    from vis_callbacks.synthesis.optimization.feature_prior import FeatureStatistics as FeatureStatistics
    from vis_callbacks.synthesis.optimization.feature_prior import collect_statistics as collect_statistics
    from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics as ImageStatistics
    from vis_callbacks.synthesis.optimization.loop import OptimizerFactory as OptimizerFactory
    from vis_callbacks.synthesis.optimization.loop import SchedulerFactory as SchedulerFactory
    from vis_callbacks.synthesis.optimization.recipes import RECIPES as RECIPES
    from vis_callbacks.synthesis.optimization.recipes import Recipe as Recipe

_MODULES = {
    "FeatureMoments": "synthesis.optimization.feature_prior",
    "FeatureStatistics": "synthesis.optimization.feature_prior",
    "Fooled": "synthesis.fool",
    "ImageStatistics": "synthesis.optimization.image_statistics",
    "OptimizerFactory": "synthesis.optimization.loop",
    "RECIPES": "synthesis.optimization.recipes",
    "Recipe": "synthesis.optimization.recipes",
    "SchedulerFactory": "synthesis.optimization.loop",
    "collect_statistics": "synthesis.optimization.feature_prior",
}

__all__ = list(_MODULES)


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"vis_callbacks.{_MODULES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
