from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
import torchvision
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from tests.synthesis.models import HALF
from vis_callbacks.model.lean_graph import LeanGraph
from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.optimization.recipes import find_recipe
from vis_callbacks.synthesis.optimization.redirected_relu import RedirectedGradients
from vis_callbacks.synthesis.optimization.skip_gradient import residual_connections, weaken_branches

Function = Callable[[Tensor], Tensor]


def run(function: Function, images: Tensor) -> tuple[Tensor, Tensor, object]:
    """Return images that require gradients, what a function makes of them, and the node where its graph begins."""
    images = images.clone().requires_grad_()
    return images, function(images), get_gradient_edge(images).node


def connections(function: Function, images: Tensor) -> int:
    _, output, start = run(function, images)
    return len(list(residual_connections([output], start)))


def gradient(function: Function, images: Tensor, factor: float | None) -> Tensor:
    images, output, start = run(function, images)
    if factor is not None:
        for connection in residual_connections([output], start):
            connection.weaken(factor)
    return torch.autograd.grad(output.square().sum(), images)[0]


def weaker(branch: Tensor) -> Tensor:
    """The same values, with half the gradient."""
    return 0.5 * branch + 0.5 * branch.detach()


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        # Three of the eight are projected.
        (torchvision.models.resnet18, 8),
        (torchvision.models.resnet50, 16),
        (partial(torchvision.models.vgg11_bn, init_weights=False), 0),
        (torchvision.models.densenet121, 0),
        # Two a block.
        (partial(timm.create_model, "vit_tiny_patch16_224"), 24),
        (partial(timm.create_model, "swin_tiny_patch4_window7_224"), 24),
        (partial(timm.create_model, "convnext_atto"), 12),
        # Its own layer adds a product of its input, which is none.
        (partial(timm.create_model, "convnextv2_atto"), 12),
        (partial(timm.create_model, "tf_efficientnet_lite0"), 9),
        (partial(timm.create_model, "efficientnet_b0"), 9),
        # Before the activation, two downsampled by a projection after it.
        (partial(timm.create_model, "resnetv2_50"), 16),
        # In place, on a view of the branch. Of 16, five skips have over half of the layers of the shortest branch.
        (partial(timm.create_model, "ghostnet_100"), 11),
        # Sums of rotated queries and keys are none.
        (partial(timm.create_model, "eva02_tiny_patch14_224"), 24),
        # Mixes by pooling, without weights but those of the normalisation.
        (partial(timm.create_model, "poolformer_s12"), 24),
    ],
)
def test_the_residual_connections_of_real_networks(make, count):
    model = frozen(make())
    assert connections(model, torch.zeros(1, 3, 224, 224)) == count
    assert connections(model.requires_grad_(True), torch.zeros(1, 3, 224, 224)) == count


CONV, NEXT, PROJECTION = (frozen(nn.Conv2d(4, 4, 3, padding=1).double()) for _ in range(3))
NORM = frozen(nn.BatchNorm2d(4).double())
NORM.running_var.uniform_(0.5, 2)
SCALE, DROP = LayerScale(1, init_values=0.3).double().requires_grad_(False), DropPath(0.5).eval()
WEIGHT = torch.randn(6, 6, dtype=torch.float64)


def branch(x: Tensor) -> Tensor:
    return NEXT(NORM(CONV(x)).relu())


def in_place(x: Tensor) -> Tensor:
    made = branch(x)
    made += x
    return made


def onto_the_skip(x: Tensor, change: Function = lambda one: one) -> Tensor:
    skip = x * 1
    skip += change(branch(x))
    return skip


def on_a_view_of_the_branch(x: Tensor, change: Function = lambda one: one) -> Tensor:
    made = change(branch(x)).flatten(2)
    made += x.flatten(2)
    return made


def on_a_view_of_the_skip(x: Tensor, change: Function = lambda one: one) -> Tensor:
    skip = (x * 1).flatten(2)
    skip += change(branch(x)).flatten(2)
    return skip


def read_twice(x: Tensor, change: Function = lambda one: one) -> Tensor:
    made = branch(x)
    return torch.cat([x + change(made), made])


def two_blocks(x: Tensor, change: Function = lambda one: one) -> Tensor:
    x = (x + change(branch(x))).relu()
    return PROJECTION(x) + change(branch(x))


RESIDUAL: dict[str, tuple[Function, Function]] = {
    "sum": (lambda x: x + branch(x), lambda x: x + weaker(branch(x))),
    "turned round": (lambda x: branch(x) + x, lambda x: weaker(branch(x)) + x),
    "torch.add": (lambda x: torch.add(x, branch(x), alpha=0.3), lambda x: x + 0.3 * weaker(branch(x))),
    "in place": (in_place, lambda x: weaker(branch(x)) + x),
    "in place, onto the skip": (onto_the_skip, partial(onto_the_skip, change=weaker)),
    "in place, on a view of the branch": (on_a_view_of_the_branch, partial(on_a_view_of_the_branch, change=weaker)),
    "in place, on a view of the skip": (on_a_view_of_the_skip, partial(on_a_view_of_the_skip, change=weaker)),
    "Python's sum": (lambda x: sum([x, branch(x)]), lambda x: x + weaker(branch(x))),
    "addcmul": (lambda x: torch.addcmul(x, WEIGHT, branch(x)), lambda x: x + WEIGHT * weaker(branch(x))),
    "addmm": (
        lambda x: torch.addmm(x[0, 0], x[0, 0].sin(), WEIGHT),
        lambda x: x[0, 0] + weaker(x[0, 0].sin() @ WEIGHT),
    ),
    "baddbmm": (
        lambda x: torch.baddbmm(x[0], x[0], WEIGHT.expand(4, 6, 6)),
        lambda x: x[0] + weaker(x[0] @ WEIGHT),
    ),
    "layer scale and drop path": (
        lambda x: x + DROP(SCALE(branch(x))),
        lambda x: x + weaker(SCALE(branch(x))),
    ),
    "pre-activation": (
        lambda x: x + NEXT(CONV(NORM(x).relu()).relu()),
        lambda x: x + weaker(NEXT(CONV(NORM(x).relu()).relu())),
    ),
    "pre-activation, projected": (
        lambda x: PROJECTION(pre := NORM(x).relu()) + NEXT(CONV(pre).relu()),
        lambda x: PROJECTION(pre := NORM(x).relu()) + weaker(NEXT(CONV(pre).relu())),
    ),
    "projected": (
        lambda x: PROJECTION(x) + NEXT(CONV(x).relu()),
        lambda x: PROJECTION(x) + weaker(NEXT(CONV(x).relu())),
    ),
    "projected, the branch first": (
        lambda x: NORM(NEXT(NORM(CONV(x)).relu())) + NORM(PROJECTION(x)),
        lambda x: weaker(NORM(NEXT(NORM(CONV(x)).relu()))) + NORM(PROJECTION(x)),
    ),
    "pooled": (
        lambda x: F.avg_pool2d(x, 2) + F.max_pool2d(CONV(x), 2),
        lambda x: F.avg_pool2d(x, 2) + weaker(F.max_pool2d(CONV(x), 2)),
    ),
    "strided and padded": (
        lambda x: F.pad(x[:, :2], (0, 0, 0, 0, 1, 1)) + branch(x),
        lambda x: F.pad(x[:, :2], (0, 0, 0, 0, 1, 1)) + weaker(branch(x)),
    ),
    # As in GPT-J: both branches see the same input, and only one of the sums has the skip as a side.
    "two branches side by side": (
        lambda x: x + CONV(x) + branch(x),
        lambda x: x + weaker(CONV(x)) + weaker(branch(x)),
    ),
    "nested": (
        lambda x: x + CONV((y := NEXT(x)) + branch(y)),
        lambda x: x + weaker(CONV((y := NEXT(x)) + weaker(branch(y)))),
    ),
    "a branch that is read by others too": (read_twice, partial(read_twice, change=weaker)),
    "two blocks": (two_blocks, partial(two_blocks, change=weaker)),
}


@pytest.mark.parametrize("mode", [None, LeanGraph, RedirectedGradients])
@pytest.mark.parametrize("kind", RESIDUAL)
def test_the_gradient_is_the_one_written_by_hand(kind, mode):
    plain, by_hand = RESIDUAL[kind]
    images = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def inside(x: Tensor) -> Tensor:
        if mode is None:
            return plain(x)
        with mode():
            return plain(x)

    found, wanted = gradient(inside, images, 0.5), gradient(by_hand, images, None)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, gradient(plain, images, None))


def part_of_a_view(x: Tensor) -> Tensor:
    made = branch(x)
    made[:, :2] += x[:, :2]
    return made


def product_on_a_view(x: Tensor) -> Tensor:
    skip = (x * 1).flatten(2)
    skip *= branch(x).flatten(2)
    return skip


def written_into_a_view(x: Tensor) -> Tensor:
    skip = x * 1
    skip[:, :2] = branch(x)[:, 2:]
    return skip


@pytest.mark.parametrize(
    "function",
    [
        # Two branches alike, of which either may be the skip: as with twins whose outputs are added.
        lambda x: CONV(x).relu() + NEXT(x).relu(),
        lambda x: branch(x) + NEXT(NORM(CONV(x.flip(-1))).relu()),
        # One a little deeper than the other.
        lambda x: NEXT(CONV(x)) + PROJECTION(NEXT(CONV(x.flip(-1)))),
        # No layer in the branch: an activation written out, a rotation, a mean added back.
        lambda x: torch.tanh(CONV(x) + 0.04 * CONV(x).pow(3)),
        lambda x: x + 0.04 * x.pow(3),
        lambda x: x * 0.6 + x.flip(-1) * 0.8,
        lambda x: x + x.mean(dim=1, keepdim=True),
        lambda x: x + x,
        # What does not come from the images.
        lambda x: branch(x) + CONV(torch.ones_like(x)),
        lambda x: x + CONV.weight.sum() + 1,
        lambda x: x.detach() + branch(x),
        # In place, but no addition, or onto a part.
        part_of_a_view,
        product_on_a_view,
        written_into_a_view,
        # A gate, and no sum.
        lambda x: x * branch(x).sigmoid(),
    ],
)
def test_the_gradient_is_the_plain_one_where_nothing_is_residual(function):
    images = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gradient(function, images, 0.5), gradient(function, images, None))


@pytest.mark.parametrize(("kind", "projected"), [("sum", False), ("pooled", False), ("projected", True)])
def test_branches_beside_a_projected_skip_stay_whole(kind, projected):
    plain, by_hand = RESIDUAL[kind]
    images, output, start = run(plain, torch.randn(2, 4, 6, 6, dtype=torch.float64))
    assert [one.projected for one in residual_connections([output], start)] == [projected]
    weaken_branches([output], start, 0.5)
    found = torch.autograd.grad(output.square().sum(), images)[0]
    assert torch.allclose(found, gradient(plain if projected else by_hand, images.detach(), None))


def test_two_inputs_that_are_added_are_no_residual_connection():
    left, right = (torch.randn(1, 4, 6, 6, dtype=torch.float64) for _ in range(2))
    assert connections(lambda x: branch(x) + CONV(right), left) == 0


def test_a_compiled_graph_is_left_as_it_is():
    images = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    compiled = torch.compile(lambda x: x + branch(x), backend="aot_eager")
    assert torch.equal(gradient(compiled, images, 0.5), gradient(compiled, images, None))


def test_a_graph_that_is_computed_again_has_the_same_gradient():
    images = torch.randn(2, 4, 6, 6, dtype=torch.float64)

    def again(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(two_blocks, x, use_reentrant=False)

    assert torch.allclose(gradient(again, images, 0.5), gradient(RESIDUAL["two blocks"][1], images, None))


def test_half_precision():
    images = torch.randn(2, 3, 8, 8)

    def half(change: Function) -> Function:
        return torch.autocast("cpu", dtype=torch.bfloat16)(frozen(ResidualNet(change)).forward)

    wanted = gradient(half(weaker), images, None)
    images, output, start = run(half(lambda one: one), images)
    weaken_branches([output], start, 0.5)
    found = torch.autograd.grad(output.square().sum(), images)[0]
    assert F.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.999


def test_the_forward_is_bit_identical_and_the_graph_is_let_go():
    model = frozen(torchvision.models.resnet18()).double()
    images, output, start = run(model, torch.rand(1, 3, 64, 64, dtype=torch.float64))
    before = output.detach().clone()
    weaken_branches([output], start, 0.5)
    assert torch.equal(output, before)
    torch.autograd.grad(output.sum(), images)
    assert torch.equal(model(images), before)
    assert torch.equal(gradient(model, images.detach(), 1.0), gradient(model, images.detach(), None))


class ResidualNet(nn.Module):
    def __init__(self, change: Function = lambda one: one) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv, self.next, self.skip = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
        )
        self.norm, self.head, self.change = nn.BatchNorm2d(8), nn.Linear(8, 5), change

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.norm(x + self.change(self.next(self.conv(x).relu()))).relu()
        x = self.skip(x) + self.next(self.conv(x).relu())
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["best", "feature"])
def test_a_recipe_weakens_logit_and_prior_alike(name):
    options = {"image_size": 16, "steps": 8, "normalization": HALF}
    recipe = replace(find_recipe(name), branch_gradient=0.5)
    plain = replace(recipe, branch_gradient=1.0)
    found = class_appearance(ResidualNet(), [0, 3], recipe=recipe, **options)
    assert torch.allclose(found, class_appearance(ResidualNet(weaker), [0, 3], recipe=plain, **options), atol=1e-3)
    assert (found - class_appearance(ResidualNet(), [0, 3], recipe=plain, **options)).abs().max() > 0.02


def test_finding_the_connections_takes_little_time():
    model = frozen(timm.create_model("vit_small_patch16_224"))
    _, output, start = run(model, torch.zeros(1, 3, 224, 224))

    def seconds() -> float:
        begin = time.process_time()
        weaken_branches([output], start, 0.5)
        return time.process_time() - begin

    assert min(seconds() for _ in range(5)) < 0.004
