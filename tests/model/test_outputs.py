"""The logits are seen through what the model applies to them, and found among what it returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks import ConfigurationError, functional as V
from vis_callbacks.model.classifier import likelihoods_of, logits_of, outputs_of
from vis_callbacks.model.guard import undisturbed

End = Callable[[Tensor], Any]


class Net(nn.Module):
    """A small classifier that ends in anything."""

    def __init__(self, end: End = lambda z: z, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.end = nn.Conv2d(3, 8, 3), nn.Linear(8, classes), end

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.conv(images)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Any:
        return self.end(3 * self.head(self.features(images)))


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(one.flatten(1), other.flatten(1))


def in_place(z: Tensor) -> Tensor:
    z.sigmoid_()
    return z


SOFTMAXES: dict[str, End] = {
    "F.softmax": lambda z: F.softmax(z, dim=1),
    "torch.softmax": lambda z: torch.softmax(z, -1),
    "method": lambda z: z.softmax(dim=1),
    "special": lambda z: torch.special.softmax(z, 1),
    "module": nn.Softmax(dim=1),
    "nested module": nn.Sequential(nn.Identity(), nn.Sequential(nn.Softmax(dim=-1), nn.Dropout())),
    "F.log_softmax": lambda z: F.log_softmax(z, dim=1),
    "method, logarithm": lambda z: z.log_softmax(-1),
    "special, logarithm": lambda z: torch.special.log_softmax(z, 1),
    "module, logarithm": nn.LogSoftmax(dim=1),
    "Softmax2d": lambda z: nn.Softmax2d()(z[:, :, None, None]).flatten(1),
    "squeezed": lambda z: z[:, :, None, None].softmax(1).squeeze(-1).squeeze(-1),
    "by dtype": lambda z: F.softmax(z, dim=1, dtype=torch.float64),
    "half": lambda z: z.softmax(1).half(),
    "clamped": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7),
    "logarithm of it": lambda z: (z.softmax(1) + 1e-8).log(),
    "exponential": lambda z: z.log_softmax(1).exp(),
    "dict": lambda z: {"probabilities": z.softmax(1), "loss": z.sum()},
    "tuple with logits": lambda z: (z.softmax(1), z),
    "list of tuples": lambda z: [(None, z.softmax(1))],
}
SIGMOIDS: dict[str, End] = {
    "torch": torch.sigmoid,
    "method": Tensor.sigmoid,
    "in place": in_place,
    "functional": F.sigmoid,
    "special": torch.special.expit,
    "module": nn.Sigmoid(),
    "logarithm": F.logsigmoid,
    "squeezed": lambda z: z.sigmoid().squeeze(1),
    "a column": lambda z: z.sigmoid()[:, 0],
    "flat": lambda z: z.sigmoid().view(-1),
    "flat and double": lambda z: z.sigmoid().flatten().double(),
    "dict": lambda z: {"score": z.sigmoid()},
}


@pytest.mark.parametrize("end", SOFTMAXES)
def test_a_net_that_ends_in_a_softmax_is_that_without_it(end: str) -> None:
    plain, net = Net().eval(), Net(SOFTMAXES[end]).eval()
    found = outputs_of(net, images())
    assert found.through == "softmax"
    torch.testing.assert_close(found.logits, plain(images()))
    torch.testing.assert_close(likelihoods_of(net, images())[1], plain(images()).softmax(1))
    torch.testing.assert_close(V.gradient(net, images(), 2), V.gradient(plain, images(), 2))
    torch.testing.assert_close(V.grad_cam(net, images(), 2), V.grad_cam(plain, images(), 2))


@pytest.mark.parametrize("end", SIGMOIDS)
def test_a_net_of_one_sigmoid_is_that_without_it_for_both_classes(end: str) -> None:
    plain, net = Net(classes=1).eval(), Net(SIGMOIDS[end], classes=1).eval()
    assert outputs_of(net, images()).through == "sigmoid"
    expected = plain(images()).sigmoid()[:, 0]
    torch.testing.assert_close(likelihoods_of(net, images())[1], torch.stack([1 - expected, expected], dim=1))
    for target in (0, 1):
        assert cosines(V.gradient(net, images(), target), V.gradient(plain, images(), target)).min() > 0.9999
    one, zero = V.gradient(net, images(), 1), V.gradient(net, images(), 0)
    torch.testing.assert_close(one, -zero)


def test_saturated_probabilities_keep_their_maps() -> None:
    for end, classes in ((nn.Sigmoid(), 1), (nn.Softmax(1), 5)):
        plain, net = Net(lambda z: 200 * z, classes).eval(), Net(nn.Sequential(Scaled(200), end), classes).eval()
        torch.testing.assert_close(V.gradient(net, images(), 0), V.gradient(plain, images(), 0))


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


def both(z: Tensor) -> Tensor:
    p = z.sigmoid()
    return torch.cat([1 - p, p], dim=1)


def both_stacked(z: Tensor) -> Tensor:
    p = z.sigmoid().squeeze(1)
    return torch.stack([torch.ones_like(p) - p, p], dim=-1)


def reversed_pair(z: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    return torch.cat([p, 1 - p], dim=1)


@pytest.mark.parametrize("end", [both, both_stacked, reversed_pair])
def test_both_probabilities_of_one_sigmoid_are_two_classes(end: End) -> None:
    plain, net = Net(classes=1).eval(), Net(end, classes=1).eval()
    torch.testing.assert_close(likelihoods_of(net, images())[1], net(images()))
    for target in (0, 1):
        own = 1 - target if end is reversed_pair else target
        assert cosines(V.gradient(net, images(), target), V.gradient(plain, images(), own)).min() > 0.9999


@pytest.mark.parametrize("column", [0, 1])
def test_one_of_two_probabilities_is_a_sigmoid_of_the_difference(column: int) -> None:
    net = Net(lambda z: z.softmax(1)[:, column], classes=2).eval()
    logits = Net(classes=2).eval()(images())
    difference = logits[:, column] - logits[:, 1 - column]
    found = outputs_of(net, images())
    assert found.through == "sigmoid"
    torch.testing.assert_close(found.logits[:, 0], difference)


def test_a_slice_of_the_images_keeps_its_logits_and_one_of_the_classes_does_not() -> None:
    plain = Net().eval()(images())
    torch.testing.assert_close(outputs_of(Net(lambda z: torch.cat([z, z]).softmax(1)[:4]), images()).logits, plain)
    assert outputs_of(Net(lambda z: z.softmax(1)[:, :3]), images()).through == ""


@pytest.mark.parametrize(
    "end",
    [
        torch.sigmoid,
        lambda z: torch.cat([one.sigmoid() for one in z.split(1, dim=1)], dim=1),
        lambda z: torch.stack([one.sigmoid() for one in z.unbind(1)], dim=1),
        lambda z: torch.cat(z.sigmoid().chunk(2, dim=1), dim=1),
    ],
)
def test_several_sigmoids_are_labels_with_probabilities_of_their_own(end: End) -> None:
    plain, net = Net().eval(), Net(end).eval()
    logits, likely = likelihoods_of(net, images())
    torch.testing.assert_close(logits, plain(images()))
    torch.testing.assert_close(likely, plain(images()).sigmoid())
    torch.testing.assert_close(V.gradient(net, images(), 3), V.gradient(plain, images(), 3))


def test_probabilities_that_changed_afterwards_are_no_probabilities() -> None:
    def doubled(z: Tensor) -> Tensor:
        p = z.sigmoid()
        return p.mul_(2)

    net = Net(doubled).eval()
    found = outputs_of(net, images())
    assert found.through == ""
    torch.testing.assert_close(found.logits, net(images()))


def test_a_custom_softmax_gives_log_probabilities() -> None:
    plain, net = Net().eval(), Net(lambda z: z.exp() / z.exp().sum(1, keepdim=True)).eval()
    found = outputs_of(net, images())
    assert found.through == "softmax"
    torch.testing.assert_close(found.logits, plain(images()).log_softmax(1), atol=1e-5, rtol=1e-5)
    expected = V.gradient(Net(lambda z: 1 * z - z.logsumexp(1, keepdim=True)).eval(), images(), 2)
    torch.testing.assert_close(V.gradient(net, images(), 2), expected, atol=1e-6, rtol=1e-4)


class Scriptable(nn.Module):
    def __init__(self, classes: int, ends: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.ends = nn.Conv2d(3, 8, 3), nn.Linear(8, classes), ends

    def forward(self, images: Tensor) -> Tensor:
        return self.ends(self.head(torch.relu(self.conv(images)).mean(dim=(2, 3))))


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
@pytest.mark.parametrize("scripted", [torch.jit.script, lambda net: torch.jit.trace(net, images())])
def test_scripted_models_give_logarithms_of_their_probabilities(scripted: Callable[[nn.Module], nn.Module]) -> None:
    softmax = scripted(Scriptable(5, nn.Softmax(1)).eval())
    plain = Scriptable(5, nn.Identity()).eval()
    torch.testing.assert_close(likelihoods_of(softmax, images())[1], plain(images()).softmax(1))
    torch.testing.assert_close(outputs_of(softmax, images()).logits, plain(images()).log_softmax(1))
    one, logit = scripted(Scriptable(1, nn.Sigmoid()).eval()), Scriptable(1, nn.Identity()).eval()
    torch.testing.assert_close(outputs_of(one, images()).logits, logit(images()), atol=1e-5, rtol=1e-4)
    assert cosines(V.gradient(one, images(), 0), V.gradient(logit, images(), 0)).min() > 0.999
    # A plain logit that happens to be a probability stays what it is.
    almost = scripted(Scriptable(1, nn.Hardtanh(0.2, 0.4)).eval())
    torch.testing.assert_close(outputs_of(almost, images()).logits, almost(images()))


def test_logits_that_look_like_one_hot_rows_stay_logits() -> None:
    net = Net(lambda z: torch.stack([torch.ones_like(z[:, 0]), torch.zeros_like(z[:, 0])], dim=1))
    assert outputs_of(net, images()).logits.tolist() == [[1.0, 0.0]] * 4


def test_attention_weights_are_not_remembered() -> None:
    from vis_callbacks.model.see_through import SeeThrough

    scores = torch.rand(2, 64, 256, 256)
    with SeeThrough(2) as mode:
        weights = scores.softmax(dim=-1)
        gate = torch.rand(2, 8, 1, 1).sigmoid()
    assert mode.origin(weights) is None
    assert mode.origin(gate) is not None
    del gate
    assert not mode._entries


# Which of several tensors are the logits.


class Several(Net):
    """Returns features of 8 and logits of any number, in any structure."""

    def __init__(self, structure: Callable[[Tensor, Tensor], Any], classes: int = 5) -> None:
        super().__init__(classes=classes)
        self.structure = structure

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return self.structure(features, self.head(features))


@dataclass
class Result:
    hidden: Tensor
    scores: Tensor


STRUCTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "features first": lambda f, z: (f, z),
    "features last": lambda f, z: (z, f),
    "nested": lambda f, z: [f, {"more": (z,)}],
    "nested the other way": lambda f, z: {"a": [{"z": z}], "b": f},
    "dict": lambda f, z: {"features": f, "out": z},
    "dataclass": lambda f, z: Result(f, z),
    "with a loss per image": lambda f, z: (f, z, z.logsumexp(1)),
    "with probabilities": lambda f, z: (f, z, z.softmax(1)),
    "detached": lambda f, z: (f.detach(), z),
    "with a prediction": lambda f, z: (z.argmax(1), f, z),
    "named": lambda f, z: {"logits": z, "after": z[:, :3]},
}


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_logits_are_what_is_computed_from_the_others(structure: str, graph: bool) -> None:
    net = Several(STRUCTURES[structure]).eval()
    expected = net.head(net.features(images()))
    with undisturbed(net), torch.set_grad_enabled(graph):
        torch.testing.assert_close(logits_of(net, images().requires_grad_(graph)), expected)
    torch.testing.assert_close(V.grad_cam(net, images(), 1), V.grad_cam(Seen(net), images(), 1, layer="net.conv"))
    with pytest.raises(ConfigurationError, match="target 12: expected a class from 0 to 4"):
        V.gradient(net, images(), 12)


class Seen(nn.Module):
    """The same network with its logits alone."""

    def __init__(self, net: Several) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.head(self.net.features(images))


def test_the_number_of_classes_tells_which_they_are() -> None:
    def heads(f: Tensor, z: Tensor) -> Any:
        return f[:, :3], z, f[:, :4]

    net = Several(heads).eval()
    with pytest.raises(ConfigurationError, match="3 tensors that may be the logits, of 3, 5, 4 columns: give forward="):
        logits_of(net, images())
    net.num_classes = 5
    torch.testing.assert_close(logits_of(net, images()), net.head(net.features(images())))
    del net.num_classes
    net.config = type("Config", (), {"num_labels": 4})()
    torch.testing.assert_close(logits_of(net, images()), net.features(images())[:, :4])


def test_two_equal_candidates_are_asked_about() -> None:
    net = Several(lambda f, z: (z, z + f[:, :5])).eval()
    # The second is computed from the first.
    torch.testing.assert_close(logits_of(net, images())[0], net(images())[1][0])
    with pytest.raises(ConfigurationError, match="give forward=") as caught:
        logits_of(Several(lambda f, z: {"one": f[:, :5] * 2, "two": f[:, :5] * 3}).eval(), images())
    assert len(str(caught.value)) < 300


def test_cost_of_seeing_through_is_paid_by_the_first_pass_only() -> None:
    net = Net().eval()
    seen = []
    net.end = lambda z: seen.append(torch.overrides._get_current_function_mode()) or z  # type: ignore[func-returns-value]
    with undisturbed(net):
        for _ in range(3):
            logits_of(net, images())
    assert [mode is not None for mode in seen] == [True, False, False]


def test_seeing_through_a_softmax_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        V.saliency(Net(nn.Softmax(1)).eval(), images())
