"""What is known of a module's classes: names, numbers that it states, and labels of batches."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from vis_callbacks.model.attributes import stated
from vis_callbacks.model.labels import Labels


@dataclass(frozen=True)
class Classes:
    """What is known of the classes.

    Attributes:
        names: Number of class names; 0 if there are none.
        stated: Numbers of classes that the module, its hyperparameters or its metrics state.
        labels: What the labels of the batches look like.
    """

    names: int = 0
    stated: frozenset[int] = frozenset()
    labels: tuple[Labels, ...] = ()

    def labels_for(self, width: int) -> Labels | None:
        """Return the labels that fit this many outputs best: class numbers before rows before values."""
        numbers = sorted((one for one in self.labels if one.kind == "numbers"), key=lambda one: one.least)
        values = [one for one in self.labels if one.kind == "values" and one.width in (1, width)]
        values = [one for one in values if one.width == width or not self.expect(width)]
        return next(iter([*self._rows(width), *numbers, *values]), None)

    def expect(self, width: int) -> bool:
        """Whether something says that there are this many classes."""
        return width in (self.names, *self.stated) or bool(self._rows(width)) or (width == 1 and self.names == 2)

    def _rows(self, width: int) -> list[Labels]:
        """Return the rows that are labels of this many classes."""
        rows = [one for one in self.labels if one.kind == "rows" and one.width == width]
        numbers = [one.least for one in self.labels if one.kind == "numbers"]
        # Beside whole numbers that are classes, zeros and ones may be anything, such as a table; one-hot rows may not.
        return [one for one in rows if not (one.several and numbers and max(numbers) <= max(width, 2))]


def stated_classes(module: nn.Module) -> frozenset[int]:
    """Return the numbers of classes that a module, its hyperparameters, metrics and losses state.

    Example:
        >>> module = nn.Module()
        >>> module.num_classes = 10
        >>> stated_classes(module)
        frozenset({10})
    """
    holders: list[Any] = [module, getattr(module, "hparams", None)]
    holders += [part for part in module.modules() if next(part.parameters(), None) is None]
    found = [stated(holder, name) for holder in holders for name in ("num_classes", "n_classes", "num_labels")]
    return frozenset(value for value in found if type(value) is int and value > 1)
