"""The guard around every pass: whatever happens inside, the model and the process are left as they were found."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_CHECKPOINTING = {"grad_checkpointing", "gradient_checkpointing", "use_checkpoint"}
"""Attributes by which timm, transformers and others switch activation checkpointing on."""

_NOTES = "_vis_callbacks_notes"

_LARGE = 2**24
"""Most elements of a plain tensor attribute that is put back: not a data set that a module keeps."""


@contextmanager
def undisturbed(model: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Run a model in the middle of its training, without any effect on the training.

    Inside, every module is in eval mode, parameters are frozen (no weight gradient is ever computed), gradients are
    enabled and tensors are ordinary ones even if the caller is in inference mode, autocast and anomaly detection are
    off, compiled modules run eagerly, activations are not checkpointed (hooks and rules would miss what the backward
    recomputes), ``log`` and ``log_dict`` do nothing, and the random generators are seeded.

    Afterwards, also after an error, these are as before: each module's attributes (its own ``training`` flag, hooks,
    counters, caches), parameters' ``requires_grad`` and ``.grad`` objects, buffers bit for bit, the random generators
    of Python, NumPy, torch and the model's CUDA device, the default dtype, and the cuDNN and determinism flags.

    Args:
        model: The module that is run, or one that contains it.
        seed: Seed of all random generators inside.

    Yields:
        Nothing.

    Raises:
        RuntimeError: If the model has lazy parameters without a shape: running it here would initialise them.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with undisturbed(model):
        ...     model[1].training
        False
        >>> model[1].training
        True
    """
    parameters = list(model.parameters())
    if any(map(is_lazy, parameters)):
        raise RuntimeError(
            "the model has lazy parameters without a shape: run one batch through it first, "
            "so that its initial weights do not depend on the visualizations"
        )
    with ExitStack() as stack:
        stack.enter_context(_process_state(device_of(model)))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_model_state(model, parameters))
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for device_type in {"cpu", device_of(model).type}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        seed_all(seed, device_of(model))
        yield


@dataclass
class PassNotes:
    """What the passes inside one guard know of each other.

    Attributes:
        buffers: The buffers of all modules that have any, by name.
        frank: Identities of models that were seen to hide nothing behind their output.
        alike: Identities of what is known of models whose structure was seen to be still the same.
    """

    buffers: list[dict[str, Tensor | None]]
    frank: set[int] = field(default_factory=set)
    alike: set[int] = field(default_factory=set)


def pass_notes(model: nn.Module) -> PassNotes:
    """Return the notes of the guard around a model, or new ones if there is none."""
    found: PassNotes | None = getattr(model, _NOTES, None)
    return PassNotes([]) if found is None else found


def is_undisturbed(model: nn.Module) -> bool:
    """Return whether a model is inside `undisturbed`."""
    return getattr(model, _NOTES, None) is not None


def plain(value: Any) -> Any:
    """Return a tensor of a subclass, such as MONAI's or torchvision's, as one like any other; else the value."""
    return value if type(value) is Tensor or not isinstance(value, Tensor) else value.as_subclass(Tensor)


@contextmanager
def _model_state(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    modules = list(model.modules())
    attributes = [(module, _Attributes(module)) for module in modules]
    gradients = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    tensors = [_Values(tensor) for tensor in _changeable(modules)]
    try:
        for module in modules:
            _prepare(module)
        _stand_in(modules)
        notes = PassNotes([module._buffers for module in modules if module._buffers])
        for module in modules:
            vars(module)[_NOTES] = notes
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield
    finally:
        for module, saved in attributes:
            saved.restore(module)
        for parameter, requires_grad, grad in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for one in tensors:
            one.restore()


def _prepare(module: nn.Module) -> None:
    """Put a module in eval mode, without activation checkpointing and without logging."""
    found = vars(module)
    # Not by train() or eval(), which users override to keep parts of a model frozen.
    if "training" in found:
        found["training"] = False  # without the checks of a module's attributes, which take five times as long
    else:
        module.training = False
    for name in _CHECKPOINTING & found.keys():
        # An attribute with such a name and another value is no switch.
        if found[name] is True:
            found[name] = False
    # A forward that logs would add these passes to the user's metrics, or raise outside of a training step.
    for name in ("log", "log_dict"):
        if callable(getattr(type(module), name, None)):
            found[name] = _no_log


def _stand_in(modules: Sequence[nn.Module]) -> None:
    """Put an alias in the place of each buffer, so that no graph, shape or type of a pass gets to the buffer itself."""
    aliases: dict[int, Tensor] = {}
    for module in modules:
        if not isinstance(module, torch.jit.ScriptModule):
            for name, buffer in module._buffers.items():
                if type(buffer) is Tensor:
                    module._buffers[name] = aliases.setdefault(id(buffer), buffer.data)


def _changeable(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return what a forward may change in place: buffers, and plain tensors in attributes and their containers."""
    found: dict[int, Tensor] = {}
    for module in modules:
        found.update({id(buffer): buffer for buffer in module._buffers.values() if buffer is not None})
        items: list[Any] = []
        for name, value in vars(module).items():
            if isinstance(value, (dict, list, tuple)):
                if value and name != "_parameters":
                    items += value.values() if isinstance(value, dict) else value
            elif type(value) is Tensor:
                items.append(value)
        for item in items:
            if type(item) is Tensor and item.is_leaf and item.numel() <= _LARGE:
                found[id(item)] = item
    return list(found.values())


class _Values:
    """A copy of a tensor's values, and of where and in which shape they are."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.requires_grad = tensor, tensor.requires_grad
        self.alias = tensor.data
        self.before = self.alias.clone()
        self.strided = tensor.layout is torch.strided and tensor.device.type != "meta"
        self.bytes = tensor.untyped_storage().nbytes() if self.strided else 0

    def restore(self) -> None:
        """Put the values back where they were, also if the tensor was resized, moved or became part of a graph."""
        tensor, alias = self.tensor, self.alias
        if tensor.requires_grad and not self.requires_grad:
            tensor.detach_()
        if self.strided:
            storage = alias.untyped_storage()
            if storage.nbytes() < self.bytes:
                storage.resize_(self.bytes)
            if _place(tensor) != _place(alias):
                tensor.data = alias
        with torch.inference_mode():
            if not torch.equal(alias, self.before):
                alias.copy_(self.before)
        if self.strided and storage.nbytes() > self.bytes:
            storage.resize_(self.bytes)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()


class _Attributes:
    """A copy of a module's attributes and of the contents of its plain containers, such as hooks and registries."""

    def __init__(self, module: nn.Module) -> None:
        self.values = dict(vars(module))
        self.containers = [
            (value, value.copy() if value else ())  # most are empty, and stay so
            for value in self.values.values()
            if isinstance(value, (dict, list, set))
        ]

    def restore(self, module: nn.Module) -> None:
        found = vars(module)
        found.update(self.values)
        if len(found) > len(self.values):
            for name in found.keys() - self.values.keys():
                del found[name]
        for container, contents in self.containers:
            container.clear()
            if contents:
                (container.extend if isinstance(container, list) else container.update)(contents)


def _no_log(*_: Any, **__: Any) -> None:
    return None


@contextmanager
def _process_state(device: torch.device) -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    dtype = torch.get_default_dtype()
    cudnn = {flag: getattr(torch.backends.cudnn, flag) for flag in ("enabled", "benchmark", "deterministic")}
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        # Some techniques resize images, whose CUDA backward is not deterministic: it must not fail in a strict run.
        torch.use_deterministic_algorithms(False)
        # Batch shapes differ from those of training: searching for the fastest algorithms would not pay off.
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        for flag, value in cudnn.items():
            setattr(torch.backends.cudnn, flag, value)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_default_dtype(dtype)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def seed_all(seed: int, device: torch.device) -> None:
    """Seed the generators of Python, NumPy, torch and one device. Call it inside `undisturbed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would seed every CUDA device, also those that others use.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer."""
    tensor: Tensor | None = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and buffers on the CPU, by name."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(model)}


@contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a model with other weights, such as those of `copied_weights`, and restore its own afterwards.

    The model's tensors keep their identity and nothing is written to their storage, so they return bit for bit.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> with swapped_weights(model, {name: torch.zeros_like(t) for name, t in model.state_dict().items()}):
        ...     model(torch.ones(1, 1)).item()
        0.0
    """
    own = {name: (tensor, tensor.data) for name, tensor in _tensors(model)}
    try:
        for name, (tensor, data) in own.items():
            if name in weights:
                tensor.data = weights[name].to(data.device)
        yield
    finally:
        for tensor, data in own.values():
            tensor.data = data


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())
