"""What is wrong with a training, in a sentence, with the picture that proves it: one file for each check."""

from typing import TYPE_CHECKING

from vis_callbacks._lazy import lazy_names

if TYPE_CHECKING:
    from vis_callbacks.diagnostics.check import Check as Check
    from vis_callbacks.diagnostics.exhibits import Exhibits as Exhibits, both_sets as both_sets, confusion as confusion
    from vis_callbacks.diagnostics.facts import Facts as Facts, StageFacts as StageFacts
    from vis_callbacks.diagnostics.finding import Verdict as Verdict
    from vis_callbacks.diagnostics.registry import CHECKS as CHECKS
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__)
