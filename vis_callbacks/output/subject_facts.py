"""What pictures are about, in words: for the report's head and for TensorBoard."""

from collections.abc import Mapping
from typing import Any

_CLASSES = {
    "predicted": "predicted class",
    "label": "true class",
    "contrast": "predicted class against the true one",
}
_NUMBERS = {
    "predicted": "largest {}",
    "label": "largest {}",
    "contrast": "largest {} against the second largest",
}
"""Of outputs that are no classes there is no true one."""


def subject_facts(subject: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and a remark of each fact about a subject, as ``run.json`` holds it.

    Example:
        >>> subject_facts({"network": "student", "kind": "Net", "outputs": "10 classes", "targets": ["label"]})
        [('Network', 'student', 'Net'), ('Outputs', '10 classes', ''), ('Target', 'true class', '')]
    """
    network, kind, forward, outputs = (_text(subject, name) for name in ("network", "kind", "forward", "outputs"))
    facts: list[tuple[str, str, str]] = []
    if network or kind:
        option = f"forward={forward}" if forward else ""
        facts.append(("Network", network or kind, " · ".join(filter(None, (kind if network else "", option)))))
    if outputs:
        facts.append(("Outputs", outputs, "no verdict" if _text(subject, "problem") else ""))
    layers = subject.get("layers")
    if isinstance(layers, Mapping) and layers:
        sizes = [" x ".join(map(str, size)) if isinstance(size, (list, tuple)) else "" for size in layers.values()]
        facts.append(("Layer of the maps", ", ".join(map(str, layers)), ", ".join(sizes)))
    targets = subject.get("targets")
    if isinstance(targets, (list, tuple)) and targets:
        facts.append(("Target", ", ".join(dict.fromkeys(_target(subject, str(one)) for one in targets)), ""))
    if pixels := _text(subject, "pixels"):
        bands = subject.get("bands")
        shown = f"bands {', '.join(map(str, bands))}" if isinstance(bands, (list, tuple)) else ""
        facts.append(("Colours by", pixels, shown))
    return facts


def _target(subject: Mapping[str, Any], target: str) -> str:
    meaning = subject.get("meaning")
    if meaning not in ("value", "embedding"):
        return _CLASSES.get(target, f"class {target}")
    noun = "output" if meaning == "value" else "feature"
    if meaning == "value" and subject.get("width") == 1:
        return "the output"
    return _NUMBERS.get(target, f"{{}} {target}").format(noun)


def _text(subject: Mapping[str, Any], name: str) -> str:
    value = subject.get(name)
    return value if isinstance(value, str) else ""
