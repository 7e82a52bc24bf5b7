"""Each check judges plain numbers: what it says of clear cases, and where it is silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vis_callbacks.diagnostics.facts import (
    Facts,
    FirstStep,
    LayerFacts,
    LayerMode,
    LossFacts,
    OrderFacts,
    PlaceFacts,
    RepairFacts,
    StageFacts,
    WeightFacts,
)
from vis_callbacks.diagnostics.registry import CHECKS

NAMES = tuple("abcdefghij")


def matrix(right: int = 45, wrong: int = 5, classes: int = 10) -> list[list[int]]:
    """Confusions with some images of each class, whose errors are the next class."""
    return [
        [right if column == row else wrong if column == (row + 1) % classes else 0 for column in range(classes)]
        for row in range(classes)
    ]


def stage(confusion: list[list[int]] | None = None, **more: object) -> StageFacts:
    found = matrix() if confusion is None else confusion
    usual = {
        "confusion": tuple(map(tuple, found)),
        "entropy": 2.3,
        "cross_entropy": 0.4,
        "images": 500,
        "means": (0.0, 0.1, 0.2),
        "spread": (0.3, 0.3, 0.3),
        "ends": 0.2,
        "contrast": 1.0,
        "labels": tuple(map(sum, found)),
        "flat": (3, 3, 3),
        "tail": (0.9, 125),
    }
    return StageFacts(**{**usual, **more})  # type: ignore[arg-type]


def weight(name: str = "conv.weight", **more: object) -> WeightFacts:
    usual = {
        "name": name, "count": 1000, "dimensions": 4, "trainable": True, "optimized": True, "changed": True,
        "had_gradient": True, "growth": 1.1, "finite": True, "virgin": False,
    }  # fmt: skip
    return WeightFacts(**{**usual, **more})  # type: ignore[arg-type]


CLEAN = Facts(
    epoch=2,
    steps=500,
    classes=NAMES,
    train=stage(),
    validation=stage(),
    weights=[weight("conv.weight"), weight("head.weight", dimensions=2)],
    layers=[LayerFacts("relu", 64, 2, True)],
    first_steps=[FirstStep(False, 0.0, 0.3)] * 6,
    order=OrderFacts(500, 16, 10, 447, 450, 0.11, 0.1),
    modes={
        "training": [LayerMode("norm", "BatchNorm", True, True), LayerMode("drop", "Dropout", True, True)],
        "validation": [LayerMode("norm", "BatchNorm", False, True), LayerMode("drop", "Dropout", False, True)],
    },
    place=PlaceFacts(200, 500),
    border=PlaceFacts(90, 500),
    repairs=[RepairFacts("mirrored left to right", 3, 20, 160)],
    batch_statistics=RepairFacts("with the statistics of the batch", 2, 3, 160, wrong=16),
    leaked=1,
    keyed=500,
)


def with_row(row: int, counts: list[int]) -> list[list[int]]:
    found = matrix()
    found[row] = counts
    return found


def swapped() -> list[list[int]]:
    found = matrix()
    found[3], found[8] = found[8], found[3]
    return found


def in_a_round(*numbers: int) -> list[list[int]]:
    found, before = matrix(), matrix()
    for number, answer in zip(numbers, (*numbers[1:], numbers[0]), strict=True):
        found[number] = before[answer]
    return found


RANDOM = {"doubted": 120, "second": 14}
CASES = [
    ("double-softmax", {"first_steps": [FirstStep(True, 0.0, 0.3)] * 6}, "probabilities already"),
    ("double-softmax", {"first_steps": [FirstStep(False, 0.2, 0.0)] * 6}, "cannot fall below 1.46"),
    ("double-softmax", {"first_steps": [FirstStep(True, 0.1, 0.3, 0.1, 7.0)] * 6}, "probabilities already"),
    ("double-softmax", {"first_steps": [FirstStep(False, 0.2, 0.1, 3.0 * at, 0.1) for at in range(6)]}, "twice"),
    ("double-softmax", {"losses": [LossFacts("softmax")] * 6}, "softmax is taken twice: it cannot fall below 1.46"),
    ("double-softmax", {"losses": [LossFacts("softmax")] * 6, "classes": ()}, "softmax is taken twice: gradients are"),
    ("double-softmax", {"losses": [LossFacts("sigmoid")] * 6}, "the sigmoid of what is a sigmoid already"),
    (
        "double-softmax",
        {"losses": [LossFacts("softmax")] * 6, "first_steps": [FirstStep(True, 0.2, 0.3)] * 6},
        "probabilities already",
    ),
    ("wrong-loss", {"losses": [LossFacts("", "logits")] * 6}, "nll_loss gets logits"),
    ("wrong-loss", {"losses": [LossFacts("", "probabilities")] * 6}, "nll_loss gets probabilities"),
    ("not-finite", {"weights": [weight(), weight("head.weight", finite=False)]}, "1 of 2 parameters"),
    ("not-shuffled", {"order": OrderFacts(500, 16, 10, 10, 450, 0.7, 0.1)}, "in 10 runs of one class"),
    # A batch holds several classes, each of them once in the epoch.
    ("not-shuffled", {"order": OrderFacts(500, 4, 50, 50, 490, 0.02, 0.02)}, "in 50 runs of one class"),
    # Through a small buffer.
    ("not-shuffled", {"order": OrderFacts(1000, 32, 10, 500, 900, 0.46, 0.1)}, "the same class 46% of the time"),
    (
        "wrong-mode",
        {"modes": {**CLEAN.modes, "validation": [LayerMode("net.1", "BatchNorm", True, True)]}},
        "1 of 1 BatchNorm layers are in training mode (net.1)",
    ),
    ("growing-weights", {"weights": [weight(growth=9.0), weight(growth=30.0, name="deep")]}, "deep 30 times"),
    ("no-progress", {"train": stage([[5] * 10] * 10, cross_entropy=2.29)}, "no better than guessing"),
    # It falls to that of guessing, which any network learns first; and falls from where no start is.
    (
        "no-progress",
        {"train": stage([[5] * 10] * 10, cross_entropy=2.35), "cross_entropy_before": 2.6},
        "no better than guessing",
    ),
    (
        "no-progress",
        {"train": stage([[5] * 10] * 10, cross_entropy=16.0), "cross_entropy_before": 20.0},
        "no better than guessing",
    ),
    # It hardly falls.
    (
        "no-progress",
        {"train": stage([[5] * 10] * 10, cross_entropy=2.6), "cross_entropy_before": 2.62},
        "no better than guessing",
    ),
    ("one-answer", {"validation": stage([[50 if column == 2 else 0 for column in range(10)]] * 10)}, "500 of 500"),
    (
        "not-in-optimizer",
        {"weights": [weight(optimized=False, changed=False, virgin=True), weight()]},
        "50% of the weights, from conv.weight on",
    ),
    ("no-gradient", {"weights": [weight(changed=False, had_gradient=False), weight()]}, "have had no gradient yet"),
    ("frozen", {"weights": [weight(trainable=False, changed=False, virgin=True), weight()]}, "random features"),
    ("dead-units", {"layers": [LayerFacts("relu", 64, 50, True)]}, "50 of 64 channels of relu"),
    ("swapped-labels", {"validation": stage(swapped())}, "has i and d swapped"),
    ("swapped-labels", {"train": stage(swapped())}, "training images of i are called d"),
    ("swapped-labels", {"validation": stage(matrix()[1:] + matrix()[:1])}, "Of 10 classes most validation images"),
    ("swapped-labels", {"validation": stage(in_a_round(2, 5, 7))}, "c is called f, f is called h, h is called c"),
    ("missing-class", {"validation": stage(with_row(6, [0] * 10))}, "class g, and none of 450 validation"),
    ("missing-class", {"train": stage(with_row(6, [0] * 10))}, "none of 450 training"),
    (
        "never-learned",
        {"validation": stage(with_row(7, [0, 48, 0, 0, 0, 0, 0, 2, 0, 0])), "train": stage(with_row(7, [4] + [0] * 9))},
        "2 of 50 images of class h are right",
    ),
    ("random-labels", {"train": stage(**RANDOM)}, "120 of 500 training labels are denied"),
    ("random-labels", {"validation": stage(**RANDOM)}, "120 of 500 validation labels"),
    ("constant-images", {"validation": stage(gray=1.0)}, "Validation images are gray"),
    ("constant-images", {"train": stage(gray=0.95), "validation": stage(gray=0.1)}, "Training images are gray"),
    ("scale", {"validation": stage(contrast=0.31)}, "0.31 times the contrast"),
    ("scale", {"validation": stage(contrast=79.0, means=(33.0, 33.0, 33.0))}, "79 times the contrast"),
    ("scale", {"validation": stage(contrast=255.3)}, "255 times the contrast"),
    ("scale", {"validation": stage(matrix(right=30, wrong=20), means=(0.9, 1.0, 1.1))}, "another brightness"),
    ("channel-order", {"train": stage(means=(-0.3, 0.0, 0.3)), "validation": stage(means=(0.3, 0.0, -0.3))}, "BGR"),
    (
        "channel-order",
        {"train": stage(means=(-0.3, 0.0, 0.3)), "validation": stage(means=(-0.3, 0.3, 0.0))},
        "with green and blue swapped. Compare",
    ),
    (
        "channel-order",
        {"train": stage(means=(-0.3, 0.0, 0.3)), "validation": stage(means=(0.3, -0.3, 0.0))},
        "in the order green, blue, red",
    ),
    (
        "channel-order",
        {"repairs": [RepairFacts("with green and blue swapped", 61, 10, 160, classes=2, channels=True)]},
        "With green and blue swapped, 61 more of 160",
    ),
    (
        "channel-order",
        {"repairs": [RepairFacts("with red and blue swapped", 33, 30, 96, wrong=38, classes=8, channels=True)]},
        "With red and blue swapped, 33 of 38 wrong validation images are right",
    ),
    (
        "geometry",
        {"repairs": [RepairFacts("turned upside down", 61, 10, 160, classes=2)]},
        "Turned upside down, 61 more of 160",
    ),
    # It explains the other contrast.
    (
        "geometry",
        {
            "validation": stage(matrix(right=10, wrong=40), contrast=0.3),
            "repairs": [RepairFacts("inverted", 80, 2, 160, classes=2)],
        },
        "Inverted, 80 more of 160",
    ),
    (
        "geometry",
        {"repairs": [RepairFacts("turned upside down", 33, 30, 96, wrong=38, classes=8)]},
        "Turned upside down, 33 of 38 wrong validation images are right, and 30 of 58 right ones wrong: some are shown",
    ),
    (
        "train-eval-gap",
        {"batch_statistics": RepairFacts("with the statistics of the batch", 70, 3, 160), "remembered": 0.8},
        "80% of their start",
    ),
    ("constant-images", {"train": stage(constant=80)}, "80 of 500 training images"),
    ("constant-images", {"validation": stage(flat=(3, 500, 3))}, "Channel 1 of 500 of 500 validation images"),
    ("not-finite", {"validation": stage(broken=2)}, "2 of 502 validation images hold NaN"),
    (
        "generalisation",
        {"validation": stage([[5] * 10] * 10)},
        "50 of 500 validation images are right, which guessing reaches too, where 90% of training",
    ),
    ("leakage", {"leaked": 250}, "250 of 500 validation images are training images too"),
    ("leakage", {"near": 40, "near_asked": 480}, "40 of 480 validation images are all but the same"),
    (
        "shortcut",
        {"place": PlaceFacts(490, 500, (0.8, 0.8, 1.0, 1.0), share=0.44)},
        "at the bottom right, tells the class of 490 of 500 training images by itself. Pasted",
    ),
    (
        "shortcut",
        {"place": PlaceFacts(200, 500, (0.0, 0.0, 0.1, 0.1), marked=(7,), marks=40, of_class=100, elsewhere=1)},
        "top left is in 40 of 100 training images of class h, and in 1 of other",
    ),
    (
        "shortcut",
        {"place": PlaceFacts(200, 500, (0.0, 0.0, 0.1, 0.1), marked=(3, 8), marks=95, of_class=100, elsewhere=0)},
        "in 95 of 100 training images of classes d and i, and in 0 of other",
    ),
    (
        "shortcut",
        {"place": PlaceFacts(100, 500, marked=(3,), marks=48, of_class=50, elsewhere=1, repeated=False, beyond=0.3)},
        "tells class d by itself: 48 of 50 training images of it are known by that, and 1 of other",
    ),
    ("border", {"border": PlaceFacts(480, 500)}, "480 of 500 training images"),
    ("augmentation", {"train": stage(tail=(0.5, 125))}, "90% of validation images are right, and 50% of training"),
]


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_stands_out_of_a_clean_training(name: str) -> None:
    assert CHECKS[name].judge(CLEAN) is None


def test_classes_that_the_step_numbers_otherwise_are_not_said_to_differ_between_the_sets() -> None:
    both = stage(matrix()[1:] + matrix()[:1])
    verdict = CHECKS["swapped-labels"].judge(replace(CLEAN, train=both, validation=both))
    assert verdict is not None
    assert verdict.severity == "note"
    assert verdict.sentence.startswith(
        "In training as in validation most images of 10 classes are called another class"
    )
    assert len(verdict.sentence) <= 300


@pytest.mark.parametrize(("name", "change", "says"), CASES, ids=[f"{name}-{says[:12]}" for name, _, says in CASES])
def test_a_clear_case_is_told(name: str, change: dict[str, object], says: str) -> None:
    verdict = CHECKS[name].judge(replace(CLEAN, **change))  # type: ignore[arg-type]
    assert verdict is not None
    assert says in verdict.sentence
    assert len(verdict.sentence) <= 300
    assert verdict.severity == ("note" if name == "augmentation" else "alarm")


@pytest.mark.parametrize("name", CHECKS)
def test_it_is_too_early_to_judge_without_numbers(name: str) -> None:
    assert CHECKS[name].judge(Facts(epoch=1, steps=0, classes=())) is None
    assert CHECKS[name].judge(Facts(epoch=1, steps=5, classes=NAMES, validation=StageFacts())) is None


@pytest.mark.parametrize(("count", "shown"), [(100_000, "99%"), (0, "All")])
def test_a_small_head_that_learns_is_not_among_the_frozen(count: int, shown: str) -> None:
    frozen = weight(trainable=False, changed=False, virgin=True, count=99 * count + 1)
    head = weight("head.weight", count=count // 200)
    verdict = CHECKS["frozen"].judge(replace(CLEAN, weights=[frozen, head]))
    assert verdict is not None
    assert verdict.sentence.startswith(f"{shown} of the weights, from conv.weight on, are frozen")


def test_a_brightness_that_is_a_note_does_not_hide_that_a_part_is_turned() -> None:
    part = RepairFacts("turned upside down", 17, 60, 160, wrong=18, classes=8)
    facts = replace(CLEAN, validation=stage(means=(0.9, 1.0, 1.1)), repairs=[part])
    assert CHECKS["geometry"].judge(facts) is not None
    assert CHECKS["geometry"].judge(replace(facts, validation=stage(contrast=0.3))) is None


def test_another_brightness_that_costs_no_answer_is_a_note() -> None:
    verdict = CHECKS["scale"].judge(replace(CLEAN, validation=stage(means=(0.9, 1.0, 1.1))))
    assert verdict is not None
    assert verdict.severity == "note"
    assert "fine if augmentation is why" in verdict.sentence
    assert len(verdict.sentence) <= 300


def test_a_transform_that_makes_chance_hits_of_misses_is_not_the_fault() -> None:
    hits = [RepairFacts("inverted", 22, 0, 160, classes=2)]
    rolled = stage(matrix(right=50, wrong=0)[1:] + matrix(right=50, wrong=0)[:1])
    assert CHECKS["geometry"].judge(replace(CLEAN, repairs=hits, validation=rolled)) is None
    assert CHECKS["geometry"].judge(replace(CLEAN, repairs=hits)) is not None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # Networks of the first epochs: too sure of answers that are seldom right.
        ("random-labels", {"train": stage(matrix(right=15, wrong=35), **RANDOM)}),
        ("no-progress", {"train": stage(matrix(right=15, wrong=35), cross_entropy=2.35)}),
        # Weights change fast, and statistics run behind them.
        ("train-eval-gap", {"batch_statistics": RepairFacts("statistics", 70, 3, 160), "steps": 150}),
        # Too sure of guesses, and less so with every step.
        ("no-progress", {"train": stage([[5] * 10] * 10, cross_entropy=2.6), "cross_entropy_before": 2.8}),
    ],
)
def test_a_network_that_has_just_begun_is_no_fault(name: str, change: dict[str, object]) -> None:
    assert CHECKS[name].judge(replace(CLEAN, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # Known by all of the image, as an object is; and too few to tell.
        ("shortcut", {"place": PlaceFacts(100, 500, marked=(3,), marks=48, of_class=50, repeated=False, beyond=0.8)}),
        ("shortcut", {"place": PlaceFacts(100, 500, marked=(3,), marks=13, of_class=13, repeated=False)}),
        # In another order of the channels no more images are right, though many are wrong.
        (
            "channel-order",
            {
                "train": stage(means=(-0.3, 0.0, 0.3)),
                "validation": stage(matrix(right=15, wrong=35), means=(0.3, 0.0, -0.3)),
                "reordered": RepairFacts("reordered", 1, 1, 48),
            },
        ),
        # Inverted, they fit better.
        (
            "channel-order",
            {"train": stage(means=(-0.6, 0.1, 1.2)), "validation": stage(means=(1.4, 0.6, -0.5), ends=0.75)},
        ),
        # It changes which of two classes is answered most.
        ("geometry", {"repairs": [RepairFacts("enlarged 1.4 times", 21, 2, 120, classes=1)]}),
        # Of two classes nearly all are called the rare one, which says that images and labels belong together.
        (
            "generalisation",
            {"validation": stage([[105, 195], [1, 99]]), "train": stage([[375, 0], [0, 125]], tail=(0.96, 125))},
        ),
        # Images of another contrast are answered otherwise for that, and some are right by chance.
        (
            "geometry",
            {
                "validation": stage(matrix(right=10, wrong=40), contrast=0.3),
                "repairs": [RepairFacts("inverted", 30, 2, 160, classes=2)],
            },
        ),
        # Gray images in both sets, and training images of which some are made gray.
        ("constant-images", {"train": stage(gray=1.0), "validation": stage(gray=1.0)}),
        ("constant-images", {"train": stage(gray=0.4)}),
        # A channel that is empty in both sets.
        ("constant-images", {"train": stage(flat=(3, 500, 3)), "validation": stage(flat=(3, 500, 3))}),
        # Some classes are called others that are right themselves.
        ("swapped-labels", {"validation": stage([matrix()[3], matrix()[4], matrix()[5], *matrix()[3:]])}),
        # Nearly all are of one class, which is nearly always right to say.
        ("generalisation", {"validation": stage([[450, 0], [50, 0]]), "train": stage(tail=(0.95, 125))}),
        # Validation knows a little, training knows little, or statistics of the batch explain it.
        ("generalisation", {"validation": stage(matrix(right=10, wrong=40))}),
        ("generalisation", {"validation": stage([[5] * 10] * 10), "train": stage(tail=(0.3, 125))}),
        (
            "generalisation",
            {"validation": stage([[5] * 10] * 10), "batch_statistics": RepairFacts("statistics", 25, 3, 48)},
        ),
        (
            "generalisation",
            {"validation": stage([[5] * 10] * 10), "steps": 50, "remembered": 0.5, "batch_statistics": None},
        ),
        # The loss is no cross entropy with the labels: images are mixed.
        (
            "random-labels",
            {"train": stage(**RANDOM), "first_steps": [FirstStep(False, 0.1 * at, 0.3, at) for at in range(6)]},
        ),
        # As much is told by the rest of the image: of two classes that look different, or of textures.
        ("shortcut", {"place": PlaceFacts(490, 500, beyond=0.95)}),
        ("border", {"border": PlaceFacts(480, 500, beyond=0.9)}),
        # Of two classes whose labels are swapped, a 6 that is turned is a 9; and honest errors, which no way mends.
        ("geometry", {"repairs": [RepairFacts("turned by 180 degrees", 33, 30, 96, wrong=38, classes=2)]}),
        ("geometry", {"repairs": [RepairFacts("mirrored left to right", 20, 12, 96, wrong=32, classes=8)]}),
        ("geometry", {"repairs": [RepairFacts("turned upside down", 5, 30, 96, wrong=38, classes=4)]}),
        # Too few steps; and losses of a step that differ, as those of several networks may.
        ("double-softmax", {"losses": [LossFacts("softmax")] * 3}),
        ("double-softmax", {"losses": [LossFacts("softmax"), LossFacts()] * 3}),
        ("wrong-loss", {"losses": [LossFacts("", "logits")] * 3}),
        ("wrong-loss", {"losses": [LossFacts("", "logits"), LossFacts()] * 3}),
        # Each kind of way is told by one check.
        ("geometry", {"repairs": [RepairFacts("with red and blue swapped", 61, 10, 160, classes=2, channels=True)]}),
        ("channel-order", {"repairs": [RepairFacts("turned upside down", 61, 10, 160, classes=2)]}),
        # Samplers that give some images of each of some classes; and nearly all are of one class.
        ("not-shuffled", {"order": OrderFacts(6400, 100, 100, 800, 6330, 0.01, 0.01)}),
        ("not-shuffled", {"order": OrderFacts(500, 16, 2, 3, 3, 0.996, 0.996)}),
        # Layers of another network, such as a teacher's, and norms that are frozen on purpose.
        ("wrong-mode", {"modes": {"training": [LayerMode("teacher.norm", "BatchNorm", False, False)]}}),
        (
            "wrong-mode",
            {
                "modes": {
                    "training": [
                        LayerMode("teacher.norm", "BatchNorm", False, True),
                        LayerMode("norm", "BatchNorm", True, True),
                    ]
                }
            },
        ),
        # Softmax of another kind: what is left of the loss is no smoothing of labels.
        ("double-softmax", {"first_steps": [FirstStep(True, 0.1, 0.3, at / 10, 0.0) for at in range(6)]}),
        ("double-softmax", {"first_steps": [FirstStep(False, 0.1, 0.3, 0.1, 0.2)] * 6}),
    ],
)
def test_what_has_another_reason_is_not_told(name: str, change: dict[str, object]) -> None:
    assert CHECKS[name].judge(replace(CLEAN, **change)) is None  # type: ignore[arg-type]


def test_one_answer_of_batch_norm_that_lags_behind_is_no_fault_of_the_data() -> None:
    one = stage([[50 if column == 2 else 0 for column in range(10)]] * 10)
    lags = RepairFacts("with the statistics of the batch", 70, 3, 160)
    assert CHECKS["one-answer"].judge(replace(CLEAN, validation=one, batch_statistics=lags)) is None
    same = replace(lags, better=3)
    assert CHECKS["one-answer"].judge(replace(CLEAN, validation=one, batch_statistics=same)) is not None
    # After a few steps statistics are not even tried.
    assert CHECKS["one-answer"].judge(replace(CLEAN, validation=one, batch_statistics=same, steps=60)) is None
    begun = replace(CLEAN, validation=one, batch_statistics=None, remembered=0.5)
    assert CHECKS["one-answer"].judge(replace(begun, steps=50)) is None
    assert CHECKS["one-answer"].judge(replace(begun, steps=500)) is not None


def test_statistics_that_do_not_fit_excuse_no_other_images_once_they_must_fit() -> None:
    statistics = RepairFacts("with the statistics of the batch", 40, 2, 160)
    found = replace(
        CLEAN, repairs=[RepairFacts("sharpened against blur", 37, 2, 160, classes=8)], batch_statistics=statistics
    )
    assert CHECKS["geometry"].judge(replace(found, steps=500)) is not None
    assert CHECKS["geometry"].judge(replace(found, steps=150)) is None
    assert CHECKS["geometry"].judge(replace(found, steps=500, remembered=0.3)) is None
    little = [RepairFacts("sharpened against blur", 27, 2, 160, classes=8)]
    assert CHECKS["geometry"].judge(replace(found, steps=500, repairs=little)) is None


def test_every_check_has_a_clear_case() -> None:
    assert {name for name, _, _ in CASES} == set(CHECKS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # Transfer learning: pretrained weights that are frozen, or meant to stay.
        ("frozen", {"weights": [weight(trainable=False, changed=False), weight()]}),
        ("not-in-optimizer", {"weights": [weight(optimized=False, changed=False), weight()]}),
        # Eight black crops of five hundred.
        ("constant-images", {"train": stage(constant=10)}),
        ("growing-weights", {"weights": [weight(), weight(), weight(growth=25.0)]}),
        ("dead-units", {"layers": [LayerFacts("relu", 64, 30, True)]}),
        (
            "train-eval-gap",
            {"batch_statistics": RepairFacts("with the statistics of the batch", 70, 3, 160)},
        ),
        ("never-learned", {"validation": stage(with_row(7, [0, 48, 0, 0, 0, 0, 0, 2, 0, 0]))}),
        # Dropout that is left on to see how sure the network is; norms that are fixed in transfer learning.
        ("wrong-mode", {"modes": {"validation": [LayerMode("drop", "Dropout", True, True)]}}),
        ("wrong-mode", {"modes": {"training": [LayerMode("norm", "BatchNorm", False, True)]}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_be_meant_is_a_note(name: str, change: dict[str, object]) -> None:
    verdict = CHECKS[name].judge(replace(CLEAN, **change))  # type: ignore[arg-type]
    assert verdict is not None
    assert verdict.severity == "note"
    assert len(verdict.sentence) <= 300


@pytest.mark.parametrize(("mended", "alarms"), [(40, False), (30, False), (28, True)])
def test_geometry_is_silent_from_three_fourths_of_the_gain_that_batchnorm_explains(mended: int, alarms: bool) -> None:
    facts = replace(
        CLEAN,
        steps=150,
        repairs=[
            RepairFacts("turned upside down", 40, 0, 160, classes=2),
            RepairFacts("inverted", 11, 0, 12, classes=2),
        ],
        batch_statistics=RepairFacts("with the statistics of the batch", mended, 0, 160),
    )
    assert (CHECKS["geometry"].judge(facts) is not None) is alarms
