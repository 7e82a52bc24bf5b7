"""Feature visualization: images made by optimization. The names here are what its functions take and return."""

from typing import TYPE_CHECKING

from vis_callbacks._lazy import lazy_names

if TYPE_CHECKING:
    from vis_callbacks.synthesis.fool import Fooled as Fooled
    from vis_callbacks.synthesis.optimization.feature_prior import (
        FeatureMoments as FeatureMoments,
        FeatureStatistics as FeatureStatistics,
        collect_statistics as collect_statistics,
    )
    from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics as ImageStatistics
    from vis_callbacks.synthesis.optimization.loop import (
        OptimizerFactory as OptimizerFactory,
        SchedulerFactory as SchedulerFactory,
    )
    from vis_callbacks.synthesis.optimization.recipes import RECIPES as RECIPES, Recipe as Recipe
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__)
