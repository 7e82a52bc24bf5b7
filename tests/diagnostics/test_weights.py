from __future__ import annotations

import timm
import torch
from torch import nn

from vis_callbacks.diagnostics.facts import are_virgin
from vis_callbacks.diagnostics.weights import WeightsWatch


def test_a_change_of_one_bit_is_seen() -> None:
    net = nn.Linear(100, 100)
    watch = WeightsWatch(net, frozenset(map(id, net.parameters())))
    with torch.no_grad():
        net.weight[37, 5] = torch.nextafter(net.weight[37, 5], torch.tensor(9.0))
    weight, bias = watch.facts(net)
    assert (weight.changed, bias.changed) == (True, False)
    assert weight.optimized
    # Two numbers that change places.
    watch = WeightsWatch(net, frozenset())
    with torch.no_grad():
        net.weight[0, :2] = net.weight[0, :2].flip(0)
    assert watch.facts(net)[0].changed


def test_weights_that_start_all_but_zero_have_no_growth() -> None:
    net = timm.create_model("test_vit")  # its class token starts at 1e-6
    watch = WeightsWatch(net, frozenset())
    with torch.no_grad():
        for one in net.parameters():
            one.add_(0.002)
    growth = {one.name: one.growth for one in watch.facts(net) if one.dimensions >= 2}
    assert growth.pop("cls_token") is None
    assert all(1 < one < 2 for one in growth.values() if one is not None)
    assert None not in growth.values()


def test_networks_are_virgin_until_they_are_trained() -> None:
    torch.manual_seed(0)
    nets = {name: timm.create_model(name) for name in ("resnet18", "test_nfnet", "test_efficientnet")}
    plain = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 9))
    for name, net in {**nets, "plain": plain}.items():
        torch.manual_seed(0)
        assert are_virgin(WeightsWatch(net, frozenset()).facts(net)), name
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.rand(4, 3, 64, 64)).square().sum().backward()
            optimizer.step()
        assert not are_virgin(WeightsWatch(net, frozenset()).facts(net)), name


def test_gradients_are_remembered() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    watch = WeightsWatch(net, frozenset())
    net[1](torch.rand(1, 2)).sum().backward()
    watch.look(net, frozenset())
    net.zero_grad()
    assert [one.had_gradient for one in watch.facts(net)] == [False, False, True, True]


def test_norm_layers_tell_for_kernels_and_biases_that_may_be_either() -> None:
    """A norm layer at its start, kernels and biases of a normal distribution, a layer's scale: untouched."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3))
    net.scale = nn.Parameter(torch.full((16,), 1e-6))
    torch.manual_seed(0)
    for kernel in (net[0], net[2]):
        nn.init.normal_(kernel.weight), nn.init.normal_(kernel.bias)
    assert are_virgin(WeightsWatch(net, frozenset()).facts(net))
    with torch.no_grad():
        net[1].weight.mul_(torch.rand(16) + 0.5)
        net[1].bias.add_(torch.rand(16))
    assert not are_virgin(WeightsWatch(net, frozenset()).facts(net))


def test_a_small_kernel_that_hardly_moved_does_not_make_trained_norms_virgin() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 9)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(20):
        optimizer.zero_grad()
        net(torch.rand(8, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    found = {one.name: one.virgin for one in WeightsWatch(net, frozenset()).facts(net)}
    assert found["0.weight"], "the kernel alone cannot tell"
    assert found["1.weight"] is False
    assert not are_virgin(WeightsWatch(net, frozenset()).facts(net))
