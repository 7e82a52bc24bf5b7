import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.stores import FACTS, photograph, record, small_run, squares
from vis_callbacks.output.store import PictureStore
from vis_callbacks.report.html import write_report

SCRIPT = "</script><script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    '" onload="alert(1)',
    "{{ 7 * 7 }}{% raw %}",
    "../../x",
    "x" * 10_000,
    "😀👩‍👩‍👧",
    "\u2028]]>-->",
    "",
]


class Reader(HTMLParser):
    """The elements, their attributes and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += attributes
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._inside.append("/" + tag)

    def handle_data(self, data: str) -> None:
        place = {"script": self.scripts, "style": []}.get(self._inside[-1] if self._inside else "", self.texts)
        place.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(path: Path) -> Reader:
    return Reader(path.read_text("utf-8"))


def test_the_report_holds_facts_metrics_and_rows(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    path = write_report(tmp_path)
    assert path == store.directory / "report.html"
    page = read(path)
    for expected in ("resnet10t", "4.92 M", "3 of 3", "1 min 30 s", "10.0 s 10 % of all", "Saliency", "sample 1"):
        assert expected in page.text
    assert page.elements["figure"] == 2 + 3
    data = json.loads(page.scripts[0])
    assert [event["name"] for event in data["events"]] == ["before training", "epoch 1", "epoch 2", "epoch 3"]
    assert data["rows"][2]["frames"][2] == {"gap": "RuntimeError: out of memory"}
    assert data["rows"][0]["frames"][1] is None


def test_numbers_are_named_in_words(tmp_path: Path) -> None:
    PictureStore(tmp_path).add(record("Filters/conv1", 0, 0, scalars={"near_duplicates": 1.0}), squares(0))
    text = read(write_report(tmp_path)).text
    assert "near duplicates" in text
    assert "near_duplicates" not in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    for number, name in enumerate(HOSTILE):
        texts = {"label": name, "predicted": name, "caption": name, "captions": (name, name)}
        line = record(f"A/{name}", 1, 9, **texts, scalars={name: float(number)})
        store.add(line, squares(number))
        store.note(record(f"{name}/{name}", 1, 9, error=name))
        store.add_metrics(1, 9, {name: 1.0, f"train_{name}": 2.0})
    hostile = {"model": SCRIPT, "status": f"stopped by {SCRIPT}", "notes": HOSTILE, "versions": {SCRIPT: SCRIPT}}
    store.write_facts(FACTS | hostile)
    page = read(write_report(tmp_path))
    assert page.elements["script"] == 3
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert SCRIPT in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "x" * 1000 not in page.text
    assert json.loads(page.scripts[0])["rows"][0]["name"] == SCRIPT


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    small_run(tmp_path)
    text = write_report(tmp_path).read_text("utf-8")
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", text)
    assert all(address.startswith(("#", "data:", "source")) for address in addresses)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in text


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("stopped by KeyboardInterrupt in epoch 3", "Training was stopped by KeyboardInterrupt in epoch 3"),
        ("running", "The run had not ended when this report was made. Last sign of life: 2025-10-09"),
    ],
)
def test_a_run_that_did_not_end_well_is_marked(tmp_path: Path, status: str, line: str) -> None:
    store = small_run(tmp_path)
    assert line not in read(write_report(tmp_path)).text
    store.write_facts({**FACTS, "status": status})
    assert line in read(write_report(tmp_path)).text


def test_a_store_with_metrics_alone_and_one_with_nothing_make_a_report(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    (store.directory / "panels.jsonl").unlink()
    page = read(write_report(tmp_path))
    assert "The store holds no pictures" in page.text
    assert "panels.jsonl could not be read" in page.text
    assert page.elements["figure"] == 2
    (store.directory / "metrics.jsonl").unlink()
    (store.directory / "run.json").write_text("{")
    assert "Training run" in read(write_report(tmp_path)).text


def test_what_shows_nothing_has_a_place_that_says_why(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    remarks = {
        "ClassAppearance": f"No pictures yet, because {SCRIPT}.",
        "Saliency": "Saliency was left out in epoch 2.",
    }
    store.write_facts({**FACTS, "remarks": remarks, "about": {"ClassAppearance": "Shows classes."}})
    path = write_report(tmp_path)
    page = read(path)
    sections = path.read_text("utf-8").split("<section ")
    of = {
        name: next(one for one in sections if f">{name}</h2>" in one)
        for name in ("Class images", "Saliency", "Filters")
    }
    assert "No pictures yet, because &lt;/script&gt;" in of["Class images"]
    assert "Shows classes." in of["Class images"]
    assert 'class="cards' not in of["Class images"]
    assert "was left out in epoch 2." in of["Saliency"]
    assert 'class="cards' in of["Saliency"]
    assert 'class="remark"' not in of["Filters"]
    assert page.text.count("Class images") == 2  # its link and its title
    assert len(json.loads(page.scripts[0])["rows"]) == 3


def test_a_run_that_shows_nothing_at_all_says_why(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    store.write_facts({**FACTS, "remarks": {"Saliency": "No pictures yet, because nothing was trained."}})
    page = read(write_report(tmp_path))
    assert "No pictures yet, because nothing was trained." in page.text
    assert "The store holds no pictures" not in page.text
    assert "could not be read" not in page.text


@pytest.mark.parametrize("remarks", [None, [], "no", {"Saliency": 3}, {"Saliency": None}])
def test_damaged_remarks_are_no_remarks(tmp_path: Path, remarks: object) -> None:
    small_run(tmp_path).write_facts({**FACTS, "remarks": remarks})
    assert 'class="remark"' not in write_report(tmp_path).read_text("utf-8")


def test_damaged_pictures_are_gaps_with_a_reason_and_are_listed(tmp_path: Path) -> None:
    store = small_run(tmp_path)
    path = next(path for path in store.directory.rglob("epoch*") if "conv1" in str(path))
    path.write_bytes(path.read_bytes()[:100])
    page = read(write_report(tmp_path))
    frames = json.loads(page.scripts[0])["rows"][0]["frames"]
    assert sum("damaged" in (frame or {}).get("gap", "") for frame in frames) == 1
    assert f"{path.name}: the picture file is damaged" in page.text


def test_the_report_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    small_run(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_report(tmp_path, blocked / "report.html")
    taken = tmp_path / "taken"
    (taken / "report.html").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_report(tmp_path, taken)
    assert [path.name for path in taken.iterdir()] == ["report.html"]
    target = tmp_path / "reports"
    assert write_report(tmp_path, target / "mine.html") == target / "mine.html"
    assert write_report(tmp_path, target) == target / "report.html"
    assert sorted(path.name for path in target.iterdir()) == ["mine.html", "report.html"]


def test_making_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    small_run(tmp_path)
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()


def test_moments_are_left_out_where_even_the_lowest_quality_is_too_large(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    for epoch in range(9):
        store.add(record("Saliency/0", epoch, epoch * 10), photograph(epoch))
    allowed = write_report(tmp_path, max_bytes=0).stat().st_size + 10_000
    path = write_report(tmp_path, max_bytes=allowed)
    page = read(path)
    shown = [event["name"] for event in json.loads(page.scripts[0])["events"]]
    assert shown[0] == "before training"
    assert shown[-1] == "epoch 8"
    assert 2 < len(shown) < 9  # no room at all leaves the first and the last
    assert f"{9 - len(shown)} moments of the run are left out" in page.text
    assert path.stat().st_size <= allowed
