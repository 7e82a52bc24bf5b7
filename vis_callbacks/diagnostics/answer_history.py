"""What the network has answered to each image, from epoch to epoch."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_SAMPLES = 50_000
"""Images that are followed."""

MOST_COLUMNS = 64
"""Passes that a history holds; of more, every other one is dropped."""

_VALUES = 1024  # of an image, that its key is made of
_RIGHT = 128  # is added to what is written of a right answer
_FEW = 0.05  # share of known images below which a set is another one in each pass


@dataclass(frozen=True)
class HardSample:
    """An image that the network finds hard.

    Attributes:
        key: By which it is found, see `image_keys`.
        label: Its class.
        answer: The class that the network saw last.
        confidence: The probability of that answer.
        margin: Logit of the label less the largest of the others, mean over the passes.
        forgotten: How often a right answer became a wrong one.
        changes: How often right and wrong changed.
        history: Probability of the label in each pass; None where it was not seen.
        right: Whether the answer was right in each pass.
    """

    key: int
    label: int
    answer: int
    confidence: float
    margin: float
    forgotten: int
    changes: int
    history: tuple[float | None, ...]
    right: tuple[bool, ...]


def image_keys(images: Tensor, labels: Tensor) -> Tensor:
    """Return a number for each image and label ``(N,)``, the same whenever they are the same.

    Args:
        images: ``(N, C, H, W)``, as they come from the loader.
        labels: ``(N,)``.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> bool((image_keys(images, torch.tensor([0, 1])) == image_keys(images, torch.tensor([0, 2]))).tolist()[0])
        True
    """
    flat = images.detach().float().flatten(1)
    stride = max(1, flat.shape[1] // _VALUES)
    while math.gcd(stride, images.shape[-1]) > 1 and stride > 1:
        stride += 1  # else a few columns would stand for all
    bits = flat[:, ::stride].contiguous().view(torch.int32).long()
    factors = torch.arange(1, bits.shape[1] + 1, device=bits.device) * 2_654_435_761 + 40_503
    return (bits * factors).sum(dim=1) * 31 + labels


class AnswerHistory:
    """Follows the answers to each image of one set. All numbers stay on the images' device until they are read.

    Attributes:
        followed: Whether the images are the same in each pass, as far as is known.
    """

    def __init__(self) -> None:
        self.followed = True
        self._pending: list[tuple[Tensor, ...]] = []
        self._part = -1
        self._columns = 0
        self._table: dict[str, NDArray[Any]] = _empty()

    def __len__(self) -> int:
        return len(self._table["key"])

    def add(self, part: int, keys: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Note the logits ``(N, K)`` for the images of a batch.

        Args:
            part: Number of the pass through the data.
            keys: See `image_keys`.
            labels: ``(N,)``.
            logits: ``(N, K)``.

        Returns:
            How wrong each answer is ``(N,)``: its probability less that of the label; 0 where it is right.
        """
        if part != self._part:
            self.fold()
            self._part, self._columns = part, self._columns + 1
        logits = logits.float()
        probabilities = logits.softmax(dim=1)
        confidence, answers = probabilities.max(dim=1)
        places = labels.clamp(0, logits.shape[1] - 1)[:, None]
        of_label = probabilities.gather(1, places)[:, 0]
        others = logits.scatter(1, places, -torch.inf).amax(dim=1)
        margins = logits.gather(1, places)[:, 0] - others
        self._pending.append((keys, labels, answers, of_label, confidence, margins))
        return confidence - of_label

    def fold(self) -> None:
        """Read what was noted. Idempotent."""
        if not self._pending:
            return
        columns = [torch.cat(one).cpu().numpy() for one in zip(*self._pending, strict=True)]
        self._pending = []
        known = (columns[1] >= 0) & np.isfinite(columns[5])
        keys, labels, answers, of_label, confidence, margins = (one[known] for one in columns)
        # Of an image that comes twice, the first counts.
        keys, first = np.unique(keys, return_index=True)
        labels, answers, of_label, confidence, margins = (
            one[first] for one in (labels, answers, of_label, confidence, margins)
        )
        old = np.isin(keys, self._table["key"])
        if self._columns > 1 and len(self) and len(keys) and self._is_new_pass():
            self.followed = bool(old.mean() >= _FEW)
            if not self.followed:
                self._table, self._columns, old = _empty(), 1, np.zeros(len(keys), dtype=bool)
        self._widen()
        self._insert(keys[~old], labels[~old])
        table = self._table
        at = np.searchsorted(table["key"], keys).clip(max=max(0, len(self) - 1))
        here = table["key"][at] == keys if len(self) else np.zeros(len(keys), dtype=bool)
        at, answers, of_label, confidence, margins = (one[here] for one in (at, answers, of_label, confidence, margins))
        right = (answers == table["label"][at]).astype(np.int8)
        before = table["right"][at]
        table["forgotten"][at] += (before == 1) & (right == 0)
        table["changes"][at] += (before >= 0) & (before != right)
        table["right"][at] = right
        table["answer"][at], table["confidence"][at] = answers, confidence
        table["margin"][at] += margins
        table["seen"][at] += 1
        table["part"][at] = self._part
        written = 1 + np.round(126 * of_label) + _RIGHT * (right == 1)
        table["history"][at, self._columns - 1] = written.astype(np.uint8)

    def hardest(self, count: int) -> list[HardSample]:
        """Return the images with the smallest mean margin, after Pleiss et al., 2020, as far as it is negative."""
        margins = self._means()
        return self._chosen(margins < 0, margins, count)

    def confident(self, count: int) -> list[HardSample]:
        """Return the images of the last pass to which the answer is wrong with the most confidence."""
        table = self._table
        return self._chosen((table["right"] == 0) & (table["part"] == self._part), -table["confidence"], count)

    def forgotten(self, count: int) -> list[HardSample]:
        """Return the images to which the answer was right and is wrong, after Toneva et al., 2019."""
        table = self._table
        return self._chosen((table["forgotten"] > 0) & (table["right"] == 0), self._means(), count)

    def unsettled(self, count: int) -> list[HardSample]:
        """Return the images to which right and wrong answers have changed most often, three times at least."""
        table = self._table
        return self._chosen(table["changes"] > 2, -table["changes"] + 1e-3 * np.tanh(self._means()), count)

    def confused(self, count: int) -> list[tuple[int, int, int]]:
        """Return pairs of classes that are taken for each other most, and how often, in the last pass."""
        table = self._table
        wrong = (table["right"] == 0) & (table["part"] == self._part)
        pairs = np.sort(np.stack([table["label"][wrong], table["answer"][wrong]], axis=1), axis=1)
        if not len(pairs):
            return []
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:count]
        return [(int(found[at, 0]), int(found[at, 1]), int(counts[at])) for at in order if counts[at] > 1]

    def taken_for(self, label: int, answer: int, count: int) -> list[HardSample]:
        """Return images of a class that the last pass took for another, the most confident first."""
        table = self._table
        chosen = (table["label"] == label) & (table["answer"] == answer) & (table["part"] == self._part)
        return self._chosen(chosen, -table["confidence"], count)

    @property
    def never_right(self) -> int:
        """How many images were never answered rightly."""
        return int((~(self._table["history"] >= _RIGHT).any(axis=1)).sum())

    @property
    def now_forgotten(self) -> int:
        """How many images were right and are wrong."""
        return int(((self._table["forgotten"] > 0) & (self._table["right"] == 0)).sum())

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        self.fold()
        table = {name: torch.from_numpy(column.copy()) for name, column in self._table.items()}
        return {"part": self._part, "columns": self._columns, "followed": self.followed, "table": table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._part, self._columns, self.followed = state["part"], state["columns"], state["followed"]
        self._table = {name: column.cpu().numpy().copy() for name, column in state["table"].items()}

    def _is_new_pass(self) -> bool:
        """Whether nothing of this pass was read yet."""
        return not bool((self._table["part"] == self._part).any())

    def _widen(self) -> None:
        """Make room for this pass."""
        history = self._table["history"]
        if self._columns > MOST_COLUMNS:
            history = history[:, ::2]
            self._columns = history.shape[1] + 1
        missing = self._columns - history.shape[1]
        if missing > 0:
            history = np.pad(history, ((0, 0), (0, missing)))
        self._table["history"] = history

    def _insert(self, keys: NDArray[Any], labels: NDArray[Any]) -> None:
        room = max(0, MOST_SAMPLES - len(self))
        keys, labels = keys[:room], labels[:room]
        new = _empty(len(keys), self._columns)
        new["key"], new["label"] = keys, labels
        joined = {name: np.concatenate([column, new[name]]) for name, column in self._table.items()}
        order = np.argsort(joined["key"], kind="stable")
        self._table = {name: column[order] for name, column in joined.items()}

    def _means(self) -> NDArray[Any]:
        means: NDArray[Any] = self._table["margin"] / np.maximum(self._table["seen"], 1)
        return means

    def _chosen(self, which: NDArray[Any], rank: NDArray[Any], count: int) -> list[HardSample]:
        places = np.flatnonzero(which)
        places = places[np.argsort(rank[places], kind="stable")][:count]
        return [self._sample(int(place)) for place in places]

    def _sample(self, place: int) -> HardSample:
        names = ("key", "label", "answer", "confidence", "margin", "seen", "forgotten", "changes")
        row = {name: self._table[name][place].item() for name in names}
        margin = row.pop("margin") / max(1, row.pop("seen"))
        written = self._table["history"][place].astype(int)
        likely = (written % _RIGHT - 1) / 126
        return HardSample(
            **row,
            margin=margin,
            history=tuple(float(value) if code else None for value, code in zip(likely, written, strict=True)),
            right=tuple(bool(code >= _RIGHT) for code in written),
        )


def _empty(count: int = 0, columns: int = 0) -> dict[str, NDArray[Any]]:
    kinds = {"key": np.int64, "label": np.int64, "answer": np.int64, "confidence": np.float32, "margin": np.float64,
             "seen": np.int32, "forgotten": np.int32, "changes": np.int32, "part": np.int64}  # fmt: skip
    table: dict[str, NDArray[Any]] = {name: np.zeros(count, kind) for name, kind in kinds.items()}
    table["right"] = np.full(count, -1, np.int8)
    table["history"] = np.zeros((count, columns), np.uint8)
    return table
