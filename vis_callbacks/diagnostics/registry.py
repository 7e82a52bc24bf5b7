"""All checks, in the order in which they are told."""

from vis_callbacks.diagnostics import (
    augmentation,
    border,
    channel_order,
    constant_images,
    dead_units,
    double_softmax,
    frozen,
    generalisation,
    geometry,
    growing_weights,
    leakage,
    missing_class,
    never_learned,
    no_gradient,
    no_progress,
    not_finite,
    not_in_optimizer,
    not_shuffled,
    one_answer,
    random_labels,
    scale,
    shortcut,
    swapped_labels,
    train_eval_gap,
    wrong_loss,
    wrong_mode,
)
from vis_callbacks.diagnostics.check import Check

_FILES = (
    *(double_softmax, wrong_loss, not_finite, not_shuffled, growing_weights, not_in_optimizer, no_gradient, frozen),
    *(dead_units, geometry, channel_order, constant_images, scale, leakage, shortcut, border, missing_class),
    *(
        wrong_mode,
        train_eval_gap,
        swapped_labels,
        no_progress,
        one_answer,
        never_learned,
        random_labels,
        generalisation,
    ),
    augmentation,
)

CHECKS: dict[str, Check] = {file.CHECK.name: file.CHECK for file in _FILES}
