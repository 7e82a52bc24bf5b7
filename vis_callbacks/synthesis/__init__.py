"""Feature visualization: images made by optimization, and what the functions that make them take and return."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vis_callbacks.synthesis.fool import Fooled
    from vis_callbacks.synthesis.optimization.feature_prior import FeatureMoments, FeatureStatistics, collect_statistics
    from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
    from vis_callbacks.synthesis.optimization.loop import OptimizerFactory, SchedulerFactory
    from vis_callbacks.synthesis.optimization.recipes import RECIPES, Recipe

__all__ = [
    "RECIPES",
    "FeatureMoments",
    "FeatureStatistics",
    "Fooled",
    "ImageStatistics",
    "OptimizerFactory",
    "Recipe",
    "SchedulerFactory",
    "collect_statistics",
]

_MODULES = {
    "RECIPES": "optimization.recipes",
    "FeatureMoments": "optimization.feature_prior",
    "FeatureStatistics": "optimization.feature_prior",
    "Fooled": "fool",
    "ImageStatistics": "optimization.image_statistics",
    "OptimizerFactory": "optimization.loop",
    "Recipe": "optimization.recipes",
    "SchedulerFactory": "optimization.loop",
    "collect_statistics": "optimization.feature_prior",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *__all__})
