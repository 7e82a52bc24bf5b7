"""Turns what was watched, and a few passes, into the numbers of one event."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.diagnostics import channel_order, dead_units, passes, train_eval_gap
from vis_callbacks.diagnostics.exhibits import Exhibits, Shown
from vis_callbacks.diagnostics.facts import Facts, LayerFacts, LayerMode, RepairFacts, StageFacts, gap_between
from vis_callbacks.diagnostics.label_order import arrivals, order_facts
from vis_callbacks.diagnostics.ledger import Ledger
from vis_callbacks.diagnostics.near_copies import near_copies
from vis_callbacks.diagnostics.places import place_facts
from vis_callbacks.diagnostics.repairs import Comparison
from vis_callbacks.diagnostics.statistics import surely_above
from vis_callbacks.diagnostics.watch import TrainingWatch

_LEAST_IMAGES = 32
_GAP = 0.05
_STANDS_OUT = 0.7
_SHOWN = 48


@dataclass(frozen=True)
class Measured:
    """The numbers of an event, and what pictures can be made of."""

    facts: Facts
    exhibits: Exhibits


def measure(
    watch: TrainingWatch,
    module: nn.Module,
    model: nn.Module | None,
    samples: Samples,
    epoch: int,
    last: Measured | None,
    *,
    due: bool,
) -> Measured:
    """Return the numbers of an event.

    Args:
        watch: What was watched.
        module: The user's module, whose parameters were watched.
        model: From images to logits, undisturbed. None: images cannot be given to it, so no passes are run.
        samples: For class names, and how pixels are displayed.
        epoch: The epoch that has just ended.
        last: What was measured at the event before. None: this is the first.
        due: Whether images are measured, and passes run. Else what they told is that of `last`.
    """
    if last is not None and not due:
        return _continued(watch, module, epoch, last)
    train = watch.train or Ledger(0)
    validation = watch.validation
    seen = train.facts()
    shown = None if validation is None else validation.facts()
    if watch.places is None or train.thumbnails:
        watch.places = place_facts(train)
    place, border, means = watch.places
    layers: Sequence[LayerFacts] = ()
    repairs: Sequence[RepairFacts] = ()
    reordered = batch_statistics = None
    remembered = passes.remembered(module, watch.steps)
    gap = gap_between(seen, shown)
    if (
        model is not None
        and validation is not None
        and gap > _GAP
        and len(validation.kept) >= _LEAST_IMAGES
        and not train_eval_gap.is_early(watch.steps, remembered)
    ):
        # In training mode answers hang on the other images of a batch.
        told = None if any(layer.training for layer in watch.modes.get("validation", ())) else validation.kept_answers
        comparison = Comparison(model, torch.stack(validation.kept), torch.tensor(validation.kept_labels), told)
        order = channel_order.fitting_order(seen, shown)
        if order is not None:
            reordered = comparison.reordered(order)
        if reordered is None or not channel_order.explains(reordered, gap):
            repairs, batch_statistics = comparison.facts(
                gap,
                lagging=remembered > train_eval_gap.REMEMBERED,
                settled=train_eval_gap.is_settled(watch.steps, remembered),
            )
    enough = len(train.kept) >= _LEAST_IMAGES
    if model is not None and enough and watch.steps >= dead_units.STEPS:
        # Those of validation may be wrong in a way that silences channels.
        layers = passes.layer_facts(model, torch.stack(train.kept))
    if model is not None and enough and (place.marked or surely_above(place.right, place.tried, _STANDS_OUT)):
        share = passes.margin_taken(model, torch.stack(train.kept), torch.tensor(train.kept_labels), place)
        place = replace(place, share=share)
    leaked, keyed = _leaks(watch)
    if watch.near is None and validation is not None and train.thumbnails and validation.thumbnails:
        watch.near = near_copies(torch.cat(train.thumbnails).cpu(), torch.cat(validation.thumbnails).cpu())
    near, near_asked = watch.near or (0, 0)
    classes = tuple(samples.class_name(number) for number in range(train.classes))
    facts = Facts(
        epoch=epoch,
        steps=watch.steps,
        classes=classes,
        train=seen,
        validation=shown,
        cross_entropy_before=None if last is None else last.facts.train.cross_entropy,
        weights=() if watch.weights is None else watch.weights.facts(module, watch.trainable),
        layers=layers,
        first_steps=tuple(watch.first_steps),
        losses=tuple(watch.losses),
        order=order_facts(train.all_labels, train.batch),
        modes=_modes(watch),
        place=place,
        border=border,
        repairs=repairs,
        reordered=reordered,
        batch_statistics=batch_statistics,
        remembered=remembered,
        leaked=leaked,
        keyed=keyed,
        near=near,
        near_asked=near_asked,
    )
    return Measured(facts, _exhibits(watch, samples, means))


def _continued(watch: TrainingWatch, module: nn.Module, epoch: int, last: Measured) -> Measured:
    """Return the numbers of an event at which images are not measured again."""

    def renewed(ledger: Ledger | None, known: StageFacts | None) -> StageFacts | None:
        if ledger is None or known is None:
            return known
        images = {
            name: getattr(known, name)
            for name in ("images", "means", "spread", "ends", "contrast", "constant", "flat", "gray", "broken")
        }
        return replace(ledger.facts(), **images)

    train = renewed(watch.train, last.facts.train) or last.facts.train
    validation = renewed(watch.validation, last.facts.validation)
    facts = replace(
        last.facts,
        epoch=epoch,
        steps=watch.steps,
        train=train,
        cross_entropy_before=last.facts.train.cross_entropy,
        validation=validation,
        weights=() if watch.weights is None else watch.weights.facts(module, watch.trainable),
        order=last.facts.order if watch.train is None else order_facts(watch.train.all_labels, watch.train.batch),
        modes=_modes(watch),
        remembered=passes.remembered(module, watch.steps),
    )
    if facts.gap <= _GAP:
        # What other ways to show the images would mend is mended.
        facts = replace(facts, repairs=(), reordered=None, batch_statistics=None)
    return replace(last, facts=facts)


def _modes(watch: TrainingWatch) -> dict[str, Sequence[LayerMode]]:
    return {"training" if stage == "train" else stage: layers for stage, layers in watch.modes.items()}


def _leaks(watch: TrainingWatch) -> tuple[int, int]:
    if not watch.known or watch.validation is None or not watch.validation.keys:
        return 0, 0
    known, asked = torch.cat(watch.known), torch.cat(watch.validation.keys)
    told = asked[asked != 0]
    return int(torch.isin(told, known).sum()), len(told)


def _exhibits(watch: TrainingWatch, samples: Samples, means: Tensor) -> Exhibits:
    def displayed(images: Tensor) -> Tensor:
        return samples.displayable(samples.normalization.to_pixels(images.float())).cpu()

    shown = {
        stage: Shown(displayed(torch.stack(ledger.kept[:_SHOWN])), tuple(ledger.kept_labels[:_SHOWN]))
        for stage, ledger in (("training", watch.train), ("validation", watch.validation))
        if ledger is not None and ledger.kept
    }
    doubted: Shown | None = None
    answers: tuple[int, ...] = ()
    ledgers = [ledger for ledger in (watch.train, watch.validation) if ledger is not None]
    found = next(filter(None, (ledger.most_doubted for ledger in ledgers)), [])
    if found:
        images, labels, answers = zip(*found, strict=True)
        doubted = Shown(displayed(torch.stack(images)), labels)
    small = displayed(means) if len(means) else means
    train = watch.train or Ledger(0)
    order = arrivals(train.all_labels, train.classes)
    return Exhibits(shown, doubted, answers, watch.first_outputs, small, order)
