"""One line of the picture store: the facts about a picture."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One line of ``panels.jsonl``: the facts about a picture, or about one that could not be made.

    Attributes:
        tag: TensorBoard tag, ``<callback>/<name>``.
        callback: Name of the callback.
        epoch: Completed epochs at an epoch's end; 0 before training; in mid-epoch, the number of the current epoch.
        step: The step under which Lightning logs metrics at the same moment.
        stage: ``"fit"``, ``"validate"`` or ``"test"``.
        sample: Index of the sample, where the picture shows one.
        label: True class by name.
        predicted: Predicted class by name.
        probability: Probability of the predicted class, in [0, 1].
        file: Image file, relative to the store. None: the picture failed, see `error`.
        seconds: Time the picture took on the training thread.
        caption: One line about the picture.
        captions: Text under each tile, left to right.
        scalars: Numbers that belong to the picture.
        error: Why there is no picture.
        time: Seconds since 1970 when the record was written.
        right: Whether the prediction is right. None: it is if it equals the label.
        content: Fingerprint of the sample's pixels, where the picture shows one.
        captions_inside: Whether the captions are part of the picture.
    """

    tag: str
    callback: str
    epoch: int
    step: int
    stage: str = "fit"
    sample: int | None = None
    label: str | None = None
    predicted: str | None = None
    probability: float | None = None
    file: str | None = None
    seconds: float = 0.0
    caption: str = ""
    captions: tuple[str, ...] = ()
    scalars: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    time: float = 0.0
    right: bool | None = None
    content: str | None = None
    captions_inside: bool = False

    def to_json(self) -> str:
        """Return the record as one line of JSON; NaN and infinity become null."""
        return json.dumps(_finite(asdict(self)), ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
