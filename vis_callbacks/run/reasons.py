"""Why a run has shown nothing of a technique, in a sentence that says what to set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vis_callbacks.run.schedule import Schedule

_STAGES = {"validate": "validation", "test": "test", "predict": "predict"}
_NAMES = 100  # characters of names in a sentence


@dataclass(frozen=True)
class Outcome:
    """How far a run came.

    Attributes:
        method: What the user called: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        epochs: Completed epochs of a fit.
        steps: Optimizer steps of a fit.
        trained: Whether a fit reached its first batch.
        validates: Whether a fit has a validation, after which pictures are made and from which samples come.
        validated: The last epoch in which that validation ran, other than as Lightning's sanity check; 0 for none.
        intervals: The Trainer's options that say when validation runs, as text.
        development: Whether it was a fast development run.
    """

    method: str = "fit"
    epochs: int = 0
    steps: int = 0
    trained: bool = True
    validates: bool = True
    validated: int = 0
    intervals: str = ""
    development: bool = False


def why_nothing(schedule: Schedule, uses_samples: bool, outcome: Outcome) -> str:
    """Return why a run has shown nothing of a technique after the start of training, as the rest of a sentence.

    Args:
        schedule: When the technique makes pictures.
        uses_samples: Whether it looks at samples.
        outcome: How far the run came.

    Returns:
        The words after "because"; empty if nothing explains it.

    Example:
        >>> why_nothing(Schedule(every_n_epochs=9), True, Outcome(epochs=5))
        'every_n_epochs=9 and the run had 5 epochs'
    """
    if outcome.development:
        return "fast_dev_run=True makes none"
    if outcome.method == "predict":
        return "trainer.predict makes no pictures: call trainer.validate, or trainer.test with on='test'"
    if outcome.method != "fit":
        stage = _STAGES[outcome.method]
        return "" if stage in schedule.on else f"on={_on(schedule)} makes none in a {stage}: set on={stage!r}"
    if not schedule.before_training:
        return "on='test' makes them in trainer.test"
    if not outcome.trained:
        return "nothing was trained"
    every, steps = schedule.every_n_epochs, schedule.every_n_steps
    by_epochs = every is None or every > outcome.epochs
    by_steps = steps is None or steps > outcome.steps
    if by_epochs and by_steps:
        found = [f"every_n_steps={steps} and the run had {_count(outcome.steps, 'step')}"] * (steps is not None)
        found += [f"every_n_epochs={every} and the run had {_count(outcome.epochs, 'epoch')}"] * (every is not None)
        return ", ".join(found)
    after_validation = outcome.validates and "train" not in schedule.on and every is not None
    if outcome.validates and not outcome.validated:
        had = f"{_count(outcome.epochs, 'epoch')}, {_count(outcome.steps, 'step')}"
        ran = f"validation never ran ({', '.join(filter(None, (had, outcome.intervals)))})"
        if after_validation:
            return f"{ran}: validate more often, or set on='train'"
        if uses_samples:
            return f"{ran}, and samples come from it: validate more often, or give samples= as a tensor or files"
    if after_validation and by_steps and every is not None and every > outcome.validated:
        return f"every_n_epochs={every} and validation last ran in epoch {outcome.validated}"
    return "there were no samples when they were due: give samples= as a tensor or files" if uses_samples else ""


def in_one_sentence(names: Iterable[str], reason: str, *, fit: bool) -> str:
    """Return the sentence that says why some techniques have shown nothing.

    Args:
        names: Names of the techniques.
        reason: What `why_nothing` returned for them.
        fit: Whether a network was trained.

    Example:
        >>> in_one_sentence(["Filters", "Saliency"], "validation never ran", fit=True)
        'Filters and Saliency made no pictures of the trained network, because validation never ran.'
    """
    return f"{listed(names)} made {_nothing(fit)}, because {reason}."


def listed(names: Iterable[str], *, most: int = _NAMES) -> str:
    """Return names as the subject of a sentence; beyond some letters the first ones and how many more.

    Example:
        >>> listed(["Filters", "Saliency", "GradCAM"])
        'Filters, Saliency and GradCAM'
    """
    every = list(names)
    shown = [name for index, name in enumerate(every) if len(", ".join(every[: index + 1])) <= most] or every[:1]
    if len(shown) < len(every):
        shown.append(f"{len(every) - len(shown)} more")
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last


def in_place(reason: str, *, fit: bool) -> str:
    """Return the sentence that stands in the place of the pictures.

    Args:
        reason: What `why_nothing` returned.
        fit: Whether a network was trained.

    Example:
        >>> in_place("every_n_epochs=5 and the run had 2 epochs", fit=True)
        'No pictures of the trained network yet, because every_n_epochs=5 and the run had 2 epochs.'
    """
    return f"{_nothing(fit).capitalize()} yet, because {reason}."


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names that share each reason.

    Example:
        >>> by_reason({"Filters": "it rains", "Saliency": "it rains", "GradCAM": "it snows"})
        {'it rains': ['Filters', 'Saliency'], 'it snows': ['GradCAM']}
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return names


def _nothing(fit: bool) -> str:
    # The untrained network may have been shown.
    return "no pictures of the trained network" if fit else "no pictures"


def _on(schedule: Schedule) -> str:
    return repr(schedule.on[0]) if len(schedule.on) == 1 else repr(list(schedule.on))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
