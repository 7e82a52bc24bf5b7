"""How the subject of the pictures is found: by the calls that were watched while a batch passed, and by trying."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from vis_callbacks.errors import brief
from vis_callbacks.model.attributes import stated
from vis_callbacks.model.calls import Call, alike, is_trained, tried
from vis_callbacks.model.candidates import candidates, switches_gradients_off
from vis_callbacks.model.classifier import has_forward
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.known_classes import Classes
from vis_callbacks.model.meaning import meaning_of
from vis_callbacks.model.signatures import taken_by
from vis_callbacks.model.subject import (
    FUNCTION,
    Forward,
    Subject,
    function_of,
    kind_of,
    network_of,
    part_of,
    sentence,
    text_of,
)


def find_subject(
    module: nn.Module,
    *,
    forward: Forward = None,
    calls: Sequence[Call] = (),
    classes: Classes | None = None,
    images: Tensor | None = None,
    optimized: frozenset[int] = frozenset(),
) -> Subject:
    """Find what pictures of a module are about.

    Args:
        module: The user's module.
        forward: The option, which is evidence enough.
        calls: The calls that were watched while a batch passed.
        classes: What is known of the classes.
        images: ``(N, C, H, W)``, to try what maps them to logits where no call was watched. Without calls and images
            the module itself is taken if it has a ``forward``, else its largest trained child that has.
        optimized: Identities of the parameters that an optimizer trains.

    Raises:
        ConfigurationError: If the option names nothing, or nothing can be called.
    """
    classes = classes or Classes()
    if forward is not None:
        return _stated(module, forward, calls, classes, images)
    seen = [call for call in calls if call.image is not None]
    subject = _of_calls(module, calls, classes) if any(call.widths for call in seen) else None
    if subject is not None and subject.output is not None and subject.problem and images is not None:
        subject = _of_calls(module, _with_graphs(module, subject, calls, images), classes)
    told = subject is not None and subject.runs and subject.meaning != "embedding"
    if subject is not None and (told or images is None or not _heads(calls)):
        return _fed(module, subject, calls, classes, optimized)
    # Nothing that the step called with images gives what its heads give: something may that it did not call.
    called = {call.name for call in seen}
    names = [name for name in candidates(module, optimized) if name not in called]
    if images is None:
        name = (*names, *sorted(called))[0]
        return Subject(name, kind_of(part_of(module, name)), evidence="no call of it was seen that gives logits")
    found: list[Call] = []
    problems: list[str] = []
    changed: list[Call] = []
    trained = {name: is_trained(part_of(module, name), optimized) for name in names}
    entry = next((call for call in seen if call.weighted and call.given is not None), None)
    with undisturbed(module):
        for name in names:
            try:
                call, reached = _try(module, name, entry, images, trained=trained[name])
            except Exception as error:
                problems.append(
                    f"{_named(module, name)}.forward takes {taken_by(part_of(module, name))}: {brief(error)}"
                )
                continue
            if entry is not None and entry.name in reached and not _reaches(entry, reached):
                changed.append(entry)
                continue
            found.append(call)
            if not name and call.widths:
                break
    if subject is not None:
        found = [call for call in found if {*call.widths} & {width for head in _heads(calls) for width in head.widths}]
    if any(call.widths for call in found):
        tries = [call for call in calls if call.image is None]
        chosen = _of_calls(module, [*found, *tries], classes)
        return replace(chosen, evidence=chosen.evidence.replace("the step calls it", "called"))
    if subject is not None:
        return subject
    if changed:
        name = changed[0].name
        return Subject(name, kind_of(part_of(module, name)), problem=_of_changed(module, changed[0]), runs=False)
    gave = dict.fromkeys(f"{_named(module, call.name)} gives {call.gave}" for call in [*reversed(seen), *found])
    text = f"no part of {kind_of(module)} maps images to logits (N, classes): {'; '.join([*gave, *problems][:2])}"
    name = next((call.name for call in reversed(seen)), (*names, "")[0])
    return _unknown(module, name, text, f"set forward= to {FUNCTION}", runs=False)


def _fed(
    module: nn.Module, subject: Subject, calls: Sequence[Call], classes: Classes, optimized: frozenset[int]
) -> Subject:
    """Return a subject that gets from images what the step gives it: where it changes them, another one, or none."""
    call = changed_for(subject, calls)
    if call is None or subject.problem:
        return subject
    assert call.images is not None
    outer = subject.network.split(".")[:-1]
    names = [".".join(outer[:depth]) for depth in range(len(outer), -1, -1)] if subject.network else []
    for name in names:
        part = part_of(module, name)
        if not has_forward(part) or switches_gradients_off(part):
            continue
        try:
            with undisturbed(module):
                found, reached = _try(module, name, call, call.images, trained=is_trained(part, optimized))
        except Exception:
            # It takes something else than images: then it is not what changes them.
            continue
        if subject.width in found.widths and _reaches(call, reached):
            evidence = f"its forward changes images as the step does before it calls {subject.network}"
            return _meant(module, Subject(name, kind_of(part), evidence=evidence), [*calls, found], found, classes)
    return replace(subject, problem=_of_changed(module, call), runs=False)


def changed_for(subject: Subject, calls: Sequence[Call]) -> Call | None:
    """Return a call of the subject's network, if the step always calls it with other images than the batch's."""
    own = [call for call in calls if call.name == subject.network and call.image is not None]
    if subject.forward or any(call.image != -1 for call in own):
        return None
    return next((call for call in own if call.images is not None), None)


def _try(
    module: nn.Module, name: str, inner: Call | None, images: Tensor, *, trained: bool
) -> tuple[Call, dict[str, Tensor]]:
    """Call a part with the images of another call, and see whether it makes that call."""
    if inner is not None and inner.images is not None:
        images = inner.images
    others = {} if inner is None or inner.name == name else {inner.name: part_of(module, inner.name)}
    return tried(part_of(module, name), name, images, trained=trained, inner=others)


def _reaches(call: Call, reached: Mapping[str, Tensor]) -> bool:
    """Whether a part was reached by what the step gives it."""
    given = reached.get(call.name)
    return given is not None and call.given is not None and alike(call.given, given)


def _with_graphs(module: nn.Module, subject: Subject, calls: Sequence[Call], images: Tensor) -> list[Call]:
    """Return the calls, those of the subject's network with the logits among its outputs as the graph shows them."""
    own = [call for call in calls if call.name == subject.network and not call.keyword]
    if not own:
        return list(calls)
    with suppress(Exception), undisturbed(module):
        found, _ = tried(part_of(module, subject.network), subject.network, images, trained=True)
        own = [call for call in own if call.widths == found.widths]
        return [replace(call, logits=found.logits) if call in own else call for call in calls]
    return list(calls)


def _of_changed(module: nn.Module, call: Call) -> str:
    """Say that a step gives a part other images than those of the batch."""
    assert call.images is not None
    assert call.given is not None
    name, shapes = _named(module, call.name), [tuple(one.shape[1:]) for one in (call.images, call.given)]
    if shapes[0] != shapes[1]:
        text = f"the step calls {name} with {shapes[1]}, not with the batch's images {shapes[0]}"
        return sentence(text, _in_one_forward(module))
    text = f"the step changes the images before it calls {name}"
    same = f"forward={call.name!r} if it only augments them, else to" if call.name else "forward= to"
    return sentence(text, f"set {same} {FUNCTION} that changes them too")


def _in_one_forward(module: nn.Module) -> str:
    """Say what to do where a step calls one part after the other."""
    return f"do all of it in {kind_of(module)}.forward(), or set forward= to {FUNCTION}"


def _stated(
    module: nn.Module, forward: Forward, calls: Sequence[Call], classes: Classes, images: Tensor | None
) -> Subject:
    called = function_of(module, forward)
    text = text_of(forward)
    name = "" if called is not None else str(forward)
    subject = Subject(name, kind_of(part_of(module, name)), text, evidence=f"forward={text!r} says so")
    own = next((call for call in calls if call.name == name and call.image is not None and call.alone), None)
    if called is None and own is not None:
        return _meant(module, replace(subject, keyword=own.keyword), calls, own, classes)
    if images is None:
        return subject
    try:
        with undisturbed(module):
            network = network_of(module, subject, forward)
            call, _ = tried(network, name, images, trained=True)
    except Exception:
        # The event that needs the logits reports it.
        return subject
    return _meant(module, subject, [*calls, call], call, classes)


def _of_calls(module: nn.Module, calls: Sequence[Call], classes: Classes) -> Subject:
    """Choose among the calls that mapped images to rows of numbers."""
    seen = [call for call in calls if call.image is not None and call.widths]
    able = [call for call in seen if call.alone and not call.partial]
    able = [call for call in able if not (switches_gradients_off(part_of(module, call.name)) and len(able) > 1)]
    if not able:
        call = next((call for call in reversed(seen) if not call.partial), seen[0])
        part = _named(module, call.name)
        if call.partial:
            text = f"{part} gives {call.gave}, of which {kind_of(module)} makes something else"
        else:
            text = f"{part}.forward takes {taken_by(part_of(module, call.name))}, not images alone"
        return _unknown(module, call.name, text, f"set forward= to {FUNCTION}", runs=False)
    # Features that go on into a head are no logits, though they have the shape of some.
    parts, able = able, [call for call in able if not _goes_on(call, _heads(calls), classes)]
    if not able:
        steps = [f"{_named(module, call.name)} gives {call.gave}" for call in (parts[0], _heads(calls)[-1])]
        text = f"no single part of {kind_of(module)} maps images to logits ({', and '.join(steps)})"
        subject = _unknown(module, parts[0].name, text, _in_one_forward(module))
        return replace(subject, meaning="embedding", width=parts[0].widths[0])
    judged = _judged(calls)
    for fits in (
        lambda call: any(classes.expect(width) for width in call.widths),
        lambda call: bool(judged & set(call.widths)),
        lambda call: call.trained,
        lambda call: call.direct,
    ):
        able = [call for call in able if fits(call)] or able
    names = list(dict.fromkeys(call.name for call in able))
    call = next((call for call in able if not call.name), able[0])
    subject = Subject(call.name, kind_of(part_of(module, call.name)), keyword=call.keyword)
    subject = _meant(module, subject, calls, call, classes)
    if len(names) > 1 and call.name and not subject.problem:
        each = " and ".join(names[:2])
        text = f"{each} of {kind_of(module)} both map images to logits: no verdict is given"
        return replace(subject, problem=sentence(text, f"set forward={names[0]!r} or forward={names[1]!r}"))
    return subject


def _heads(calls: Sequence[Call]) -> list[Call]:
    """Return the calls that made rows of numbers of something else than images, and are trained to."""
    return [call for call in calls if call.image is None and call.trained and call.widths and call.direct]


def _goes_on(call: Call, heads: Sequence[Call], classes: Classes) -> bool:
    """Whether what a call gave is not the logits yet, by the calls of other parts in the same step."""
    others = [head for head in heads if call.name not in head.within and head.name not in call.within]
    eaten = {width for head in others for width in head.features}
    if {*call.widths} <= eaten:
        return True
    made = {width for head in others for width in head.widths}
    if any(classes.expect(width) for width in call.widths):
        # Other data of the batch, such as a table, may go into the same logits.
        return any(head.of_batch and {*head.widths} & {*call.widths} for head in others)
    # What is made last has the classes, unless it is something else again, such as noise or a projection.
    return any(classes.expect(width) for width in made) or any(head.of_batch for head in others)


def _meant(module: nn.Module, subject: Subject, calls: Sequence[Call], call: Call, classes: Classes) -> Subject:
    """Add to a subject how many outputs it has, what they mean, and what contradicts that."""
    judged = _judged(calls)
    places = list(range(len(call.widths)))
    own = stated(part_of(module, subject.network), "num_classes")
    for fits in (
        classes.expect,
        lambda width: width in judged,
        lambda width: width == own,
        lambda width: all(one.kind != "numbers" or one.least <= max(width, 2) for one in classes.labels),
    ):
        places = [place for place in places if fits(call.widths[place])] or places
    if call.logits in places:
        places = [call.logits]
    highest = {one.least for one in classes.labels if one.kind == "numbers"}
    places = [place for place in places if call.widths[place] in highest] or places
    if not places:
        text = f"{_named(module, subject.network)} gives {call.gave}, expected logits (N, classes)"
        return replace(subject, problem=sentence(text, f"set forward= to {FUNCTION}"), runs=False)
    width = call.widths[places[0]]
    name = f"forward={subject.forward!r}" if subject.forward else _named(module, subject.network)
    evidence = subject.evidence or f"the step calls it with images and it gives (N, {width})"
    labels = classes.labels_for(width)
    known = classes.expect(width)
    losses = [kind_of(part_of(module, one.name)) for one in calls if width in one.features]
    meaning = meaning_of(width, labels, losses)
    subject = replace(subject, width=width, evidence=evidence, meaning=meaning)
    if len(call.widths) > 1:
        subject = replace(subject, output=places[0])
    if len(places) > 1:
        sizes = [call.widths[place] for place in places]
        widths = " and ".join(map(str, sizes[:3]))
        text = f"{name} gives outputs of {widths}, and nothing tells which are the logits: the first are shown"
        remedy = "set class_names=, or forward= to choose" if len({*sizes}) > 1 else f"set forward= to {FUNCTION}"
        return replace(subject, problem=sentence(text, remedy))
    if width == 1 and classes.names > 2 and (meaning == "binary" or not losses):
        text = f"{name} gives one output, and there are {classes.names} class names: no verdict is given"
        return replace(subject, problem=sentence(text, "set forward= to what gives the logits"))
    if meaning in ("value", "embedding"):
        return subject
    views = {one.image for one in calls if one.name == call.name and one.image is not None and one.image >= 0}
    if len(views) > 1 and not known and width not in judged:
        text = f"{name} is called with {len(views)} images at a time, and its {width} outputs need not be classes"
        return replace(subject, meaning="embedding", problem=sentence(text, "set class_names= if they are"))
    many = max(width, 2)
    if labels is not None and labels.kind == "numbers" and labels.least > many:
        text = f"{name} gives {_outputs(width)}, and labels reach {labels.least - 1}: no verdict is given"
        return replace(subject, problem=sentence(text, "set forward= to what gives the logits"))
    certain = known or width in judged or meaning == "labels"
    least = labels.least if labels is not None and labels.kind == "numbers" else 0
    # One more may stand for what is of no class.
    most = max(classes.stated, default=width) + 1
    if width > most > least and not certain:
        text = f"{name} gives {_outputs(width)}, and num_classes={most - 1} is stated: no verdict is given"
        return replace(subject, problem=sentence(text, "set forward= to what gives the logits"))
    certain = certain or classes.names < least
    if classes.names and width > classes.names and not certain:
        text = f"{name} gives {_outputs(width)}, and there are {classes.names} class names: no verdict is given"
        return replace(subject, problem=sentence(text, "set class_names= if they are classes, or forward="))
    return subject


def _judged(calls: Iterable[Call]) -> set[int]:
    """Return the widths of what losses and metrics read together with class numbers."""
    # Not those with weights of their own, which judge embeddings.
    judges = [call for call in calls if call.image is None and call.labelled and not {*call.widths} - {1}]
    judges = [call for call in judges if not call.weighted]
    return {width for call in judges for width in call.features if width > 1}


def _unknown(module: nn.Module, name: str, text: str, remedy: str, *, runs: bool = True) -> Subject:
    return Subject(name, kind_of(part_of(module, name)), problem=sentence(text, remedy), evidence=text, runs=runs)


def _outputs(width: int) -> str:
    return "one output" if width == 1 else f"{width} outputs"


def _named(module: nn.Module, name: str) -> str:
    return name or kind_of(module)
