"""What the weights were at the start of the training, and what has become of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vis_callbacks.diagnostics.facts import WeightFacts

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
_UNIFORM, _NORMAL = 1.8, (2.3, 3.0)  # kurtosis of what kernels are initialised with; training makes it larger
_ZERO = 1e-4  # root mean square of weights that start all but zero, as class tokens of timm do with 1e-6
_APART = 1e-4  # of a norm, which depends a little on the order in which it is summed
_FEW = 256  # numbers, of which the kurtosis says little


@dataclass(frozen=True)
class _Start:
    bits: Tensor
    norm: Tensor


class WeightsWatch:
    """Remembers the weights at the start of a training by two numbers each: a sum of their bits, and their norm.

    Args:
        module: The user's module.
        optimized: Identities of the parameters that an optimizer has.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> watch = WeightsWatch(net, frozenset())
        >>> _ = net.weight.data.mul_(2)
        >>> [(one.name, one.changed, one.optimized, one.growth) for one in watch.facts(net)][0]
        ('weight', True, False, 2.0)
    """

    def __init__(self, module: nn.Module, optimized: frozenset[int]) -> None:
        self._optimized = optimized
        self._start = {name: _Start(_bits(one), _norm(one)) for name, one in module.named_parameters()}
        self._had_gradient: set[str] = set()
        self._norms = {
            f"{name}.weight".lstrip(".") for name, one in module.named_modules() if "norm" in type(one).__name__.lower()
        }

    def look(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Remember which parameters have a gradient, and which an optimizer has, now."""
        self._optimized |= optimized
        self._had_gradient.update(name for name, one in module.named_parameters() if one.grad is not None)

    def facts(self, module: nn.Module, trainable: Mapping[str, bool] | None = None) -> list[WeightFacts]:
        """Return what has become of each parameter.

        Args:
            module: The module.
            trainable: Which parameters want gradients, by name. None: as they say themselves.
        """
        same = [
            (name, one)
            for name, one in module.named_parameters()
            if name in self._start and self._start[name].bits.device == one.device
        ]
        if not same:
            return []
        # All at once: each number that is read waits for the device.
        pairs = [torch.stack([self._start[name].norm.double(), _norm(one).double()]) for name, one in same]
        norms = torch.stack(pairs).tolist()
        # Bits take longer, and tell only whether weights of the same norm are the same.
        alike = [at for at, (before, now) in enumerate(norms) if not abs(now - before) > _APART * before]
        bits = [_bits(same[at][1]) != self._start[same[at][0]].bits for at in alike]
        changed = dict(zip(alike, torch.stack(bits).tolist(), strict=True)) if bits else {}
        found = []
        for at, ((name, one), (before, now)) in enumerate(zip(same, norms, strict=True)):
            differs = changed.get(at, True)
            found.append(
                WeightFacts(
                    name=name,
                    count=one.numel(),
                    dimensions=one.ndim,
                    trainable=one.requires_grad if trainable is None else trainable.get(name, True),
                    optimized=id(one) in self._optimized,
                    changed=differs,
                    had_gradient=name in self._had_gradient,
                    growth=now / before if before > _ZERO * one.numel() ** 0.5 else None,
                    finite=math.isfinite(now),
                    virgin=False if differs else _is_virgin(one, of_norm=name in self._norms),
                )
            )
        return found


def _bits(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bit patterns, which is exact in any order, each times its place."""
    plain = tensor.detach().contiguous()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    bits = plain.view(_INTEGERS[plain.element_size()]).flatten()
    if bits.element_size() < 4:
        bits = bits.int()
    # Odd factors lose no bit where what is too large wraps around.
    places = torch.arange(1, 2 * len(bits), 2, dtype=bits.dtype, device=bits.device)
    return (bits * places).sum(dtype=bits.dtype)


def _norm(tensor: Tensor) -> Tensor:
    # Sums of squares of half precision are too large for it.
    wide = {torch.float16: torch.float32, torch.bfloat16: torch.float32}.get(tensor.dtype)
    found: Tensor = torch.linalg.vector_norm(tensor.detach(), dtype=wide)
    return found


def _is_virgin(tensor: Tensor, *, of_norm: bool) -> bool | None:
    """Whether numbers are surely those of an initialisation, surely not, or may be."""
    values = tensor.detach().float().flatten()
    constant = len(values) > 1 and bool((values == values[0]).all())
    if constant and tensor.ndim < 2:
        # Weights of norm layers, and biases; another number may be the start of a layer's scale.
        return True if float(values[0]) in (0.0, 1.0) else None
    if of_norm and not constant and len(values) > 1:
        # Norm layers start with all weights alike.
        return False
    if constant or len(values) < _FEW:
        return None
    apart = values - values.mean()
    kurtosis = float(apart.pow(4).mean() / apart.square().mean().square())
    # With several standard deviations of what so many numbers give; of normal ones it is skewed.
    if abs(kurtosis - _UNIFORM) < 4 * len(values) ** -0.5:
        return True
    room = 6 * math.sqrt(24 / len(values))
    return None if _NORMAL[0] - room <= kurtosis <= _NORMAL[1] + room else False
