"""Warnings about pictures that could not be made or written, each given once."""

import warnings
from collections.abc import Hashable, Iterable, Sequence

from vis_callbacks.errors import CutError, NotFiniteError, SubjectError, VisualizationWarning, brief
from vis_callbacks.run.reasons import listed

_LONGEST = 295
_FEW_NAMES = 30  # letters


class WarnOnce:
    """The warnings of one run, each of them given once.

    Example:
        >>> once = WarnOnce()
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     for _ in range(2):
        ...         once.warn("Filters", "made no pictures", ValueError("no layer"), "name one")
        >>> [str(one.message) for one in caught]
        ['Filters made no pictures: ValueError: no layer. Training goes on, and it is tried again (name one).']
    """

    def __init__(self) -> None:
        self._given: set[Hashable] = set()

    def warn(self, who: str | Sequence[str], what: str, error: Exception, remedy: str) -> None:
        """Warn of a failure and its cause, once per name and type of error.

        Args:
            who: What failed, such as the name of a callback, or the names of all that this cause hinders.
            what: What it failed to do; the rest of the sentence.
            error: Why.
            remedy: What the user can do.
        """
        if isinstance(error, SubjectError):
            return self.warn_subject(str(error))
        if isinstance(error, CutError):
            # One cause, whatever needs the gradient and wherever.
            text = f"Pictures that need a gradient are left out: {error}"
            return self._warn_once(CutError, text if len(text) < _LONGEST else f"{text[: _LONGEST - 1]}…")
        # What is wrong with the weights or the disk hinders all callbacks alike, and the run's other files too.
        common = isinstance(error, (NotFiniteError, OSError))
        names = [who] if isinstance(who, str) else list(who)
        keys = {(type(error), "" if common else name) for name in names}
        if not keys <= self._given:
            self._given |= keys
            end = f". Training goes on, and it is tried again ({remedy})."
            start = f"{listed(names)} {what}: "
            if len(start) + len(brief(error, _LONGEST)) + len(end) > _LONGEST:
                # What to do is said at the end of the error, and more needed than the names.
                start = f"{listed(names, most=_FEW_NAMES)} {what}: "
            text = f"{start}{brief(error, max(40, _LONGEST - len(start) - len(end)))}{end}"
            warnings.warn(text, VisualizationWarning, stacklevel=2)
        return None

    def warn_subject(self, problem: str) -> None:
        """Warn of what keeps pictures from being of the right network, once for all callbacks."""
        self._warn_once(problem, problem)

    def warn_unwritten(self, problems: Iterable[tuple[str, Exception]]) -> None:
        """Warn of what could not be written, see `Output.problems`."""
        for name, error in problems:
            remedy = "look at the disk's space and the folder's rights" if isinstance(error, OSError) else "report it"
            self.warn(name or "The picture store", "could not be written", error, remedy)

    def warn_class_names(self, problem: str) -> None:
        """Warn of class names that were found and cannot be right; "" if there are none such."""
        if problem:
            self._warn_once("class names", problem)

    def warn_batches(self, problem: str) -> None:
        """Warn of batches that could not be read after others were; "" if there are none such."""
        if problem:
            self._warn_once(problem, problem)

    def warn_limits(self, sentences: Iterable[str]) -> None:
        """Warn of what keeps some techniques from working with a model, see `limits_of`."""
        for sentence in sentences:
            self._warn_once(sentence, f"{sentence}.")

    def warn_sharded(self, strategy: str) -> None:
        """Warn that there are no pictures with a strategy that splits the weights among the processes."""
        self._warn_once(
            strategy,
            f"Pictures are off: with {strategy} each process holds but a part of the weights, and a pass that one "
            "makes alone would wait for the others without end. Training goes on. For pictures train with "
            "strategy='ddp', or give a checkpoint to Trainer.validate on one device.",
        )

    def warn_nothing(self, sentence: str) -> None:
        """Warn that nothing is shown of some callbacks, and why."""
        self._warn_once(sentence, sentence)

    def _warn_once(self, key: Hashable, text: str) -> None:
        if key not in self._given:
            self._given.add(key)
            warnings.warn(text, VisualizationWarning, stacklevel=3)
