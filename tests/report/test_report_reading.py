import json
from pathlib import Path

import pytest

from tests.report.stores import record, small_run, squares
from vis_callbacks.output.store import PictureStore
from vis_callbacks.report.reading import read_history


def lines_of(store: PictureStore) -> list[str]:
    return (store.directory / "panels.jsonl").read_text("utf-8").splitlines(keepends=True)


def test_reads_what_the_run_wrote(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    history = read_history(tmp_path)
    assert history == read_history(store.directory)
    assert [event.label for event in history.events] == [
        "before training",
        "epoch 1 · step 99",
        "epoch 2 · step 199",
        "epoch 3 · step 299",
    ]
    assert [(row.callback, row.name) for row in history.rows] == [
        ("Filters", "conv1"),
        ("Saliency", "sample 0"),
        ("Saliency", "sample 1"),
    ]
    filters, _, failing = history.rows
    assert list(filters.pictures) == [0, 2]
    assert failing.pictures[2].gap == "RuntimeError: out of memory"
    assert failing.pictures[3].file is not None
    assert failing.pictures[3].file.is_file()
    assert [point.value for point in history.metrics["val_acc"]] == [0.0, 0.25, 0.5, 0.75]
    assert history.run.model == "resnet10t"
    assert history.problems == []


def test_a_store_cut_anywhere_keeps_all_that_was_whole(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    path = store.directory / "panels.jsonl"
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        history = read_history(tmp_path)
        finished = whole[:length].count(b"\n")
        assert sum(len(row.pictures) for row in history.rows) in (finished, finished + 1)
        mentioned = any("half a line" in problem for problem in history.problems)
        assert mentioned == (length > 0 and not _ends_with_a_record(whole[:length]))


def _ends_with_a_record(lines: bytes) -> bool:
    try:
        return isinstance(json.loads(lines.split(b"\n")[-1] or b"{}"), dict)
    except ValueError:
        return False


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "null",
        "1",
        "{}",
        '{"tag": "A/b"}',
        '{"tag": "A/b", "callback": "A", "epoch": "one", "step": 1}',
        '{"tag": "A/b", "callback": "A", "epoch": 1e999, "step": 1}',
        '{"tag": 5, "callback": "A", "epoch": 1, "step": 1}',
        "[" * 100_000,
        "\0" * 50,
        "9" * 5000,
    ],
)
def test_a_damaged_line_costs_only_itself(tmp_path: Path, line: str) -> None:
    store = small_run(tmp_path)
    kept = lines_of(store)
    (store.directory / "panels.jsonl").write_text("".join([kept[0], line + "\n", *kept[1:]]), "utf-8")
    history = read_history(tmp_path)
    assert sum(len(row.pictures) for row in history.rows) == len(kept)
    assert len(history.problems) == 1
    assert history.problems[0].startswith("panels.jsonl, line 2 was skipped")
    assert len(history.problems[0]) < 200


def test_values_of_a_wrong_type_are_left_away(tmp_path: Path) -> None:
    (tmp_path / "panels.jsonl").write_text(
        json.dumps(
            {
                "tag": "A/b",
                "callback": None,
                "epoch": 1.0,
                "step": 7,
                "caption": ["x"],
                "captions": "xyz",
                "probability": "high",
                "scalars": {"a": None, "b": "c", "d": 1, "e": True},
                "label": 3,
                "file": 17,
                "error": {"why": "?"},
                "unknown": 1,
            }
        )
    )
    history = read_history(tmp_path)
    picture = history.rows[0].pictures[0]
    assert (history.rows[0].callback, history.rows[0].name) == ("A", "b")
    assert history.events[0].label == "epoch 1 · step 7"
    assert picture.record.scalars == {"d": 1.0}
    assert picture.record.captions == ()
    assert (picture.record.caption, picture.record.label, picture.record.probability) == ("", None, None)
    assert picture.gap == "the picture was not made"


def test_the_last_of_two_lines_about_a_picture_holds(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    store.note(record("Saliency/sample 0", 1, 99, error="second try"))
    history = read_history(tmp_path)
    assert [row.name for row in history.rows] == ["conv1", "sample 0", "sample 1"]
    assert history.rows[1].pictures[1].gap == "second try"


def test_an_epoch_of_one_batch_does_not_hide_the_picture_before_training(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    store.add(record("Filters/conv1", 0, 0), squares(0))
    store.add(record("Filters/conv1", 1, 0), squares(1))
    history = read_history(tmp_path)
    assert [event.label for event in history.events] == ["before training", "epoch 1 · step 0"]
    assert list(history.rows[0].pictures) == [0, 1]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_pictures_without_a_fit_are_not_called_before_training(tmp_path: Path, stage: str) -> None:
    PictureStore(tmp_path).add(record("Filters/conv1", 0, 0, stage=stage), squares(0))
    assert read_history(tmp_path).events[0].label == {"validate": "validation", "test": "test"}[stage]


@pytest.mark.parametrize(
    "name", ["../../secret.png", "../secret.png", "a\0b", "x" * 5000, "gone.png", "Filters", "", "\ud800.png"]
)
def test_a_file_name_that_is_not_a_picture_of_the_store_is_a_gap(tmp_path: Path, name: str) -> None:
    store = small_run(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "run" / "secret.png").write_bytes(b"secret")
    line = json.dumps({"tag": "Filters/conv1", "callback": "Filters", "epoch": 0, "step": 0, "file": name})
    (store.directory / "panels.jsonl").write_text("".join([*lines_of(store), line]), "utf-8")
    history = read_history(tmp_path / "run")
    picture = history.rows[0].pictures[0]
    assert picture.file is None
    assert picture.gap is not None
    assert len(history.problems) == 1
    assert len(history.problems[0]) < 250


def test_absolute_names_and_links_do_not_lead_out_of_the_store(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    store = small_run(tmp_path / "run")
    (store.directory / "link.png").symlink_to(secret)
    store.note(record("Filters/conv1", 0, 0, file=str(secret)))
    store.note(record("Saliency/sample 0", 0, 0, file="link.png"))
    history = read_history(tmp_path / "run")
    assert history.rows[0].pictures[0].file is None
    assert history.rows[1].pictures[0].file is None
    assert all("leads out of the store" in problem for problem in history.problems)


def test_the_failure_of_a_whole_callback_is_a_gap_in_each_of_its_rows(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    store.note(record("Saliency", 4, 399, error="boom"))
    store.note(record("Occlusion", 4, 399, error="never worked"))
    history = read_history(tmp_path)
    assert [row.name for row in history.sections["Saliency"]] == ["sample 0", "sample 1"]
    assert [row.pictures[4].gap for row in history.sections["Saliency"]] == ["boom", "boom"]
    assert [(row.name, row.pictures[4].gap) for row in history.sections["Occlusion"]] == [("", "never worked")]


def test_metrics_that_are_no_numbers_are_gaps_and_damaged_lines_are_skipped(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    store.add_metrics(4, 399, {"val_acc": float("nan")})
    with (store.directory / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "step": 400}\n{"epoch": 5, "step": null, "values": {}}\n{"epo')
    history = read_history(tmp_path)
    assert history.metrics["val_acc"][-1].value is None
    assert len(history.problems) == 3
    assert "half a line" in history.problems[-1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\0", b'{"model": 3, "notes": 4, "versions": []}'])
def test_damaged_facts_are_left_away(tmp_path: Path, content: bytes) -> None:
    store = small_run(tmp_path)
    (store.directory / "run.json").write_bytes(content)
    history = read_history(tmp_path)
    assert (history.run.model, history.run.notes, history.run.versions) == ("", (), {})
    assert len(history.rows) == 3


def test_missing_files_of_a_store_are_reported(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    (store.directory / "panels.jsonl").unlink()
    (store.directory / "metrics.jsonl").unlink()
    history = read_history(tmp_path)
    assert (history.events, history.rows, history.metrics) == ((), (), {})
    assert len(history.problems) == 1
    assert history.run.model == "resnet10t"


def test_no_store_is_an_error_that_helps(tmp_path: Path) -> None:
    small_run(tmp_path / "logs" / "version_7")
    with pytest.raises(FileNotFoundError, match=r"further down.*version_7"):
        read_history(tmp_path / "logs")
    with pytest.raises(FileNotFoundError, match=r"no such directory.*Expected panels\.jsonl"):
        read_history(tmp_path / "nothing")
    (tmp_path / "empty" / "visualizations").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="found no picture store"):
        read_history(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="that is a file"):
        read_history(tmp_path / "logs" / "version_7" / "visualizations" / "run.json")


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    (store.directory / "panels.jsonl").write_text("".join([*lines_of(store), "broken\n" * 500]), "utf-8")
    history = read_history(tmp_path)
    assert len(history.problems) == 21
    assert history.problems[-1] == "and 480 more of this kind"


def test_a_picture_made_again_replaces_its_own_line_alone(tmp_path: Path) -> None:
    tags = ("Filters/café", 'Filters/a "b"', "Filters/a", "Filters/a\\b")
    store = PictureStore(tmp_path)
    for tag in tags:
        for epoch in (0, 1):
            store.add(record(tag, epoch, epoch), squares(epoch))
    again = PictureStore(tmp_path)
    for tag in tags:
        for caption in ("at last", "again"):
            again.add(record(tag, 1, 1, caption=caption), squares(5))
    before = [picture.record.caption for row in read_history(tmp_path).rows for picture in row.pictures.values()]
    assert sorted(before) == [""] * 4 + ["again"] * 4
    again.drop_replaced()
    found = [json.loads(line) for line in (store.directory / "panels.jsonl").read_text().splitlines()]
    assert [(one["tag"], one["epoch"], one["caption"]) for one in found] == [
        *((tag, 0, "") for tag in tags),
        *((tag, 1, "again") for tag in tags),
    ]


def test_a_process_killed_before_the_end_of_an_event_leaves_no_double(
    tmp_path: Path,
) -> None:
    for seed in (0, 5):
        store = PictureStore(tmp_path)
        store.add(record("Filters/a", 1, 1, caption=str(seed)), squares(seed))
    resumed = PictureStore(tmp_path)
    assert resumed.holds(record("Filters/a", 1, 1), squares(5))
    resumed.add(record("Filters/a", 2, 2), squares(6))
    resumed.drop_replaced()
    found = [json.loads(line) for line in (store.directory / "panels.jsonl").read_text().splitlines()]
    assert [(one["epoch"], one["caption"]) for one in found] == [(1, "5"), (2, "")]


def test_a_damaged_line_does_not_keep_a_store_from_being_resumed(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    store.add(record("Filters/a", 1, 1), squares(1))
    with (store.directory / "panels.jsonl").open("a") as stream:
        stream.write('{"tag": ["a"], "epoch": 1, "step": {}}\n[1]\n{"tag": "Filters/a"}\n')
    again = PictureStore(tmp_path)
    assert again.holds(record("Filters/a", 1, 1), squares(1))
    again.add(record("Filters/a", 1, 1, caption="again"), squares(2))
    again.drop_replaced()
    lines = (store.directory / "panels.jsonl").read_text().splitlines()
    assert (len(lines), json.loads(lines[3])["caption"]) == (4, "again")
