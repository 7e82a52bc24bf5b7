"""The structure of a model: what tells whether something learnt about its layers still holds."""

from typing import Any
from weakref import ref

from torch import nn

# What belongs to every module, as its hooks, and what the guard or the hook in which a pass runs changes.
_PASSING = frozenset(
    {*vars(nn.Module()), "grad_checkpointing", "gradient_checkpointing", "use_checkpoint", "_current_fx_name"}
)
_LONGEST = 64
_OTHER = object()


class Structure:
    """The modules of a model, the shapes of their weights, and their settings: numbers, switches and words.

    A model may grow without new modules, by one of its attributes.

    Args:
        model: The model.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3))
        >>> structure = Structure(net)
        >>> net[0].stride = (2, 2)
        >>> structure.is_of(net)
        False
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(name, ref(module)) for name, module in model.named_modules()]
        modules = list(model.modules())
        # One that calls another keeps it out of its own parts.
        modules += [item for module in modules for item in vars(module).values() if isinstance(item, nn.Module)]
        self._shapes = [tuple(parameter.shape) for parameter in model.parameters()]
        self._settings = {
            (number, name): value
            for number, module in enumerate(modules)
            for name, item in vars(module).items()
            if name not in _PASSING and (value := _plain(item)) is not _OTHER
        }
        self._counted: frozenset[tuple[int, str]] = frozenset()

    def is_of(self, model: nn.Module) -> bool:
        """Whether a model has this structure."""
        now = Structure(model)
        return (self._modules, self._shapes) == (now._modules, now._shapes) and self._changes(now) <= self._counted

    def as_kept_by(self, model: nn.Module) -> "Structure":
        """Return the structure now; settings that have changed since do not count: a pass itself counts them, say."""
        now = Structure(model)
        now._counted = self._changes(now)
        return now

    def _changes(self, other: "Structure") -> frozenset[tuple[int, str]]:
        return frozenset(key for key, _ in self._settings.items() ^ other._settings.items())


def _plain(value: Any) -> Any:
    """Return a number, switch or word, or a few of them, in a form that can be compared; `_OTHER` for anything else."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value).__name__, value
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (tuple, list)) and len(value) <= _LONGEST:
        items = tuple(map(_plain, value))
        return _OTHER if _OTHER in items else items
    return _OTHER
