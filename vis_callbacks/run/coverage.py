"""Which techniques have shown something of the trained network, and why others have not."""

from collections.abc import Iterable

from vis_callbacks._lightning import Trainer, has_validation, is_fitting, stage_of, validation_intervals
from vis_callbacks.run.members import Members
from vis_callbacks.run.reasons import Outcome, by_reason, in_one_sentence, in_place, why_nothing
from vis_callbacks.run.technique import Technique, Watcher


class Coverage:
    """Remembers what was shown, and explains what was not.

    Args:
        members: The callbacks of the run.

    Attributes:
        trained: Whether a fit has reached its first batch.
        validated: The last epoch of a fit in which validation ended; 0 for none.
    """

    def __init__(self, members: Members) -> None:
        self.trained = False
        self.validated = 0
        self._members = members
        self._shown: set[Technique] = set()

    def start(self) -> None:
        """Start a fit, validation or test."""
        self.trained, self.validated = False, 0
        # A resumed run has shown something before.
        techniques = self._members.techniques
        self._shown.update(one for one in techniques if max(one.schedule.last_epoch, one.schedule.last_step) > 0)

    def mark_shown(self, techniques: Iterable[Technique]) -> None:
        """Remember that techniques have made pictures of the trained network."""
        self._shown.update(techniques)

    @property
    def empty(self) -> bool:
        """Whether nothing was shown at all."""
        return not self._shown

    def placeholders(self, trainer: Trainer) -> dict[str, str]:
        """Return, by name, the sentences that stand in the place of the pictures that were not made."""
        fit = is_fitting(trainer)
        return {self._members.names[one]: in_place(why, fit=fit) for one, why in self._reasons(trainer).items()}

    def explanations(self, trainer: Trainer) -> list[str]:
        """Return the sentences that tell the user why nothing is shown, one per reason."""
        fit = is_fitting(trainer)
        reasons = {
            self._members.names[one]: why
            for one, why in self._reasons(trainer).items()
            if not fit or one.schedule.before_training
        }
        return [in_one_sentence(names, why, fit=fit and self.trained) for why, names in by_reason(reasons).items()]

    def _reasons(self, trainer: Trainer) -> dict[Technique, str]:
        """Return why nothing is shown of techniques, as the rest of a sentence, where it can be explained."""
        method, fast = stage_of(trainer), bool(getattr(trainer, "fast_dev_run", False))
        outcome = Outcome(
            method,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            trained=self.trained,
            validates=method == "fit" and not fast and has_validation(trainer),
            validated=self.validated,
            intervals=validation_intervals(trainer),
            development=fast,
        )
        # Those that watch show nothing where nothing is wrong.
        nothing = [one for one in self._members.techniques if one not in self._shown and not isinstance(one, Watcher)]
        found = {one: why_nothing(one.schedule, one.uses_samples, outcome) for one in nothing}
        return {one: why for one, why in found.items() if why}
