"""The guard alone: whatever happens inside, everything is as before."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.refusal import guarded


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = tiny.Net(dropout=0.5).train()
    model.bn2.eval()
    model.conv2.weight.requires_grad_(False)
    nn.functional.cross_entropy(model(torch.rand(4, 1, 8, 8)), torch.arange(4)).backward()
    return model


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Fails where anything about the model or the process is another afterwards."""
    attributes = [dict(vars(module)) for module in model.modules()]
    contents = [{name: copy.copy(value) for name, value in vars(module).items()} for module in model.modules()]
    tensors = [(tensor, tensor.detach().clone(), _place(tensor)) for tensor in _tensors(model)]
    parameters = [
        (one.requires_grad, one.grad, None if one.grad is None else one.grad.clone()) for one in model.parameters()
    ]
    process = _process()
    yield
    for module, before, inside in zip(model.modules(), attributes, contents, strict=True):
        assert vars(module).keys() == before.keys()
        for name, value in before.items():
            assert vars(module)[name] is value or vars(module)[name] == value, name
            if isinstance(value, (dict, list, set)):
                assert list(value) == list(inside[name]), name
    for one, before in zip(model.parameters(), parameters, strict=True):
        assert one.requires_grad == before[0]
        assert one.grad is before[1]
        assert before[1] is None or torch.equal(before[1], before[2])
    for one, (tensor, before, place) in zip(_tensors(model), tensors, strict=True):
        assert one is tensor
        assert torch.equal(one, before)
        assert _place(one) == place
    assert _process() == process


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _place(one: Tensor) -> list[Any]:
    storage = one.untyped_storage()
    # The storage object, as its memory moves when it grows.
    return [one.dtype, one.shape, one.stride(), storage._cdata, storage.nbytes(), one.is_leaf, one.requires_grad]


def _process() -> list[Any]:
    numpy = np.random.get_state()
    return [
        random.getstate(),
        numpy[1].tolist(),
        numpy[2:],
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.enabled,
    ]


def _modes(model: nn.Module) -> None:
    model.train()
    model.bn1.train()


def _parameters(model: nn.Module) -> None:
    model.requires_grad_(True)
    for one in model.parameters():
        one.grad = torch.ones_like(one)


def _buffers(model: nn.Module) -> None:
    for buffer in model.buffers():
        buffer.add_(1)
    model.train()
    model(torch.rand(4, 1, 8, 8))


def _hooks(model: nn.Module) -> None:
    model.conv1.register_forward_hook(lambda *_: None)
    model.conv1.register_full_backward_hook(lambda *_: None)
    model.register_forward_pre_hook(lambda *_: None)


def _attributes(model: nn.Module) -> None:
    model.forward = lambda images: images
    model.cache = torch.rand(3)
    model.drop_path = 0.9
    del model.dropout.inplace


def _structure(model: nn.Module) -> None:
    model.head = nn.Identity()
    model.extra = nn.Linear(2, 2)
    del model.conv1
    model.bn1.register_buffer("more", torch.zeros(1))
    model.bn1.running_mean = torch.ones(4)


def _graphs(model: nn.Module) -> None:
    leaf = torch.ones(4, requires_grad=True)
    model.bn1.running_mean.mul_(leaf)
    model.bn2.running_var += leaf
    model.bn2.running_mean = leaf * 2


def _shapes(model: nn.Module) -> None:
    model.bn1.running_mean.resize_(9).zero_()
    model.bn1.running_var.resize_(2, 2).add_(1)
    model.bn2.running_mean.data = torch.ones(3, dtype=torch.float64)
    model.bn2.running_var.set_(torch.ones(7))
    model.bn2.num_batches_tracked.untyped_storage().resize_(64)


def _random(model: nn.Module) -> None:
    random.random(), np.random.rand(), torch.rand(1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)


def _process_flags(model: nn.Module) -> None:
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.set_grad_enabled(False)


def _passes(model: nn.Module) -> None:
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert gradient.abs().sum() > 0


CHANGES = [
    _modes,
    _parameters,
    _buffers,
    _hooks,
    _attributes,
    _structure,
    _graphs,
    _shapes,
    _random,
    _process_flags,
    _passes,
]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("around", ["nothing", "no_grad", "inference_mode", "autocast", "anomaly detection"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_everything_is_put_back(
    change: Callable[[nn.Module], None], around: str, fails: bool, model: nn.Module
) -> None:
    outer: Any = {
        "nothing": torch.enable_grad(),
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "anomaly detection": torch.autograd.set_detect_anomaly(True, check_nan=False),
    }[around]
    with outer, unchanged(model):
        try:
            with undisturbed(model):
                change(model)
                if fails:
                    raise KeyError("in the middle")
        except KeyError:
            assert fails


def test_the_test_itself_finds_a_change(model: nn.Module) -> None:
    for change in (_modes, _parameters, _buffers, _hooks, _attributes, _structure, _random):
        with pytest.raises(AssertionError), unchanged(one := copy.deepcopy(model)):
            change(one)


def test_inside_all_is_ready_for_passes(model: nn.Module) -> None:
    images = torch.rand(2, 1, 8, 8)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.set_detect_anomaly(True),
        undisturbed(model),
    ):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_anomaly_enabled()
        assert model(images).dtype == torch.float32
        assert torch.equal(model(images), model(images))


def test_the_seed_decides_all_random_numbers(model: nn.Module) -> None:
    def draw(seed: int) -> list[float]:
        with undisturbed(model, seed=seed):
            return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4), strict=True))


def test_it_nests(model: nn.Module) -> None:
    with unchanged(model), undisturbed(model):
        inside = [vars(module)["training"] for module in model.modules()]
        with undisturbed(model):
            _structure(model)
        assert [vars(module)["training"] for module in model.modules()] == inside
        assert not any(inside)


def test_nan_and_empty_buffers_are_no_problem() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("broken", torch.full((2,), float("nan")))
    model.register_buffer("empty", torch.zeros(0))
    model.register_buffer("missing", None)
    with undisturbed(model):
        model.broken.zero_()
    assert model.broken.isnan().all()


def test_tensors_that_are_no_buffers_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.plain, model.cache, model.history = torch.ones(3), {"k": torch.ones(2)}, [torch.zeros(1)]
    model.state = torch.ones(2, requires_grad=True) * 2
    tensors = model.plain, model.cache["k"], model.history[0], model.state
    with undisturbed(model):
        model.plain.mul_(3).resize_(5)
        model.cache["k"] += 1
        model.cache["v"] = torch.ones(1)
        model.history[0].sub_(1)
        model.history.append(torch.ones(1))
    assert (model.plain, model.cache["k"], model.history[0], model.state) == tensors
    assert model.plain.tolist() == [1.0, 1.0, 1.0]
    assert (model.cache.keys(), model.cache["k"].tolist()) == ({"k"}, [1.0, 1.0])
    assert (len(model.history), model.history[0].item()) == (1, 0.0)
    # The graph of training is none of our business.
    assert model.state.grad_fn is not None


def test_a_buffer_with_a_graph_keeps_it_and_views_stay_views() -> None:
    leaf, whole = torch.ones(2, requires_grad=True), torch.zeros(4, 2)
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("state", leaf * 2)
    model.register_buffer("part", whole[1])
    state, part = model.state, model.part
    with undisturbed(model):
        model.state.add_(1)
        model.part.add_(model.state.sum() * leaf)
    assert model.state is state
    assert model.part is part
    assert state.tolist() == [2.0, 2.0]
    assert torch.equal(torch.autograd.grad(state.sum(), leaf)[0], torch.full((2,), 2.0))
    assert not whole.any()
    assert not part.requires_grad


def test_a_module_that_is_used_twice_is_put_back_once() -> None:
    shared = nn.BatchNorm1d(2)
    model = nn.Sequential(shared, shared)
    before = shared.running_mean.clone()
    with undisturbed(model):
        model.train()
        model(torch.rand(4, 2))
    assert torch.equal(shared.running_mean, before)
    assert shared.training


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_logging_in_forward_does_nothing(package: str) -> None:
    class Logs(tiny.module_class(package)):  # type: ignore[misc]
        def forward(self, images: Tensor) -> Tensor:
            self.log("a", images.mean())
            self.log_dict({"b": images.mean()})
            return super().forward(images)

    module = Logs()
    with undisturbed(module):
        assert module(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert "log" not in vars(module)


def test_a_lazy_model_is_refused_and_stays_lazy() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(RuntimeError, match="lazy parameters"), undisturbed(model):
        pass
    assert model[1].has_uninitialized_params()


def test_a_compiled_model_runs_without_being_compiled(model: nn.Module) -> None:
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model.eval(), backend=backend)
    with undisturbed(compiled):
        for count in (1, 2, 3):
            assert compiled(torch.rand(count, 1, 8, 8)).shape == (count, 4)
    assert compilations == []
    torch._dynamo.reset()


def test_leaves_no_trace_guards_a_function(model: nn.Module) -> None:
    @guarded
    def meddle(model: nn.Module, *, times: int) -> int:
        """Docs."""
        for _ in range(times):
            _buffers(model)
        return times

    with unchanged(model):
        assert meddle(model, times=2) == 2
    assert meddle.__doc__ == "Docs."
