"""What a timm model states is read from the model or any part of it, and from nothing that only has such a name."""

from __future__ import annotations

import timm
from torch import nn

from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.normalization import normalization_of
from vis_callbacks.model.pretrained_cfg import pretrained_cfgs, stated_input_size


def test_a_wrapped_model_states_the_same() -> None:
    model = timm.create_model("resnet18")
    wrapped = nn.Sequential(nn.Identity(), model)
    assert stated_input_size(wrapped) == stated_input_size(model) == tuple(model.pretrained_cfg["input_size"])
    assert [module for module, _ in pretrained_cfgs(wrapped)] == [model]
    assert normalization_of(wrapped) == normalization_of(model)
    assert len(find_class_names(wrapped, [])[0]) == 1000


def test_what_is_no_configuration_states_nothing() -> None:
    model = nn.Sequential(nn.Identity())
    model[0].pretrained_cfg = "resnet18"
    assert not list(pretrained_cfgs(model))
    assert stated_input_size(model) is None
    assert normalization_of(model) is None
    assert find_class_names(model, []) == ((), "")
