"""What stands out, at the top of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.helpers.browser import launched, needs_browser, visit
from tests.report.stores import small_run
from vis_callbacks.report.findings import read_findings
from vis_callbacks.report.html import write_comparison, write_report

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">{{ 7 * 7 }}\u2028"


def found(**more: object) -> dict[str, object]:
    one = {"check": "shortcut", "severity": "alarm", "sentence": "The corner decides.", "first_epoch": 1}
    return {**one, "last_epoch": 2, "rows": ["Saliency/sample 0"], **more}


def written(folder: Path, *findings: object, checked: object = ("shortcut", "scale")) -> None:
    store = small_run(folder)
    (store.directory / "findings.json").write_text(json.dumps({"checked": checked, "findings": findings}))


def test_without_a_file_nothing_is_said_and_an_empty_list_is_one_line(tmp_path: Path) -> None:
    small_run(tmp_path / "none")
    assert "stands out" not in write_report(tmp_path / "none").read_text()
    written(tmp_path / "empty")
    assert "Nothing stands out. Checked: shortcut, scale." in write_report(tmp_path / "empty").read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"findings": 3}', '{"findings": [3, {}, {"sentence": 4}]}'])
def test_a_damaged_file_breaks_nothing(tmp_path: Path, text: str) -> None:
    store = small_run(tmp_path)
    (store.directory / "findings.json").write_text(text)
    found = read_findings(store.directory)
    assert found is None or found.findings == ()
    write_report(tmp_path)


@needs_browser
def test_each_finding_leads_to_its_evidence(tmp_path: Path) -> None:
    notes = [found(severity="note", sentence=HOSTILE, check=HOSTILE, rows=[HOSTILE]), found()]
    written(tmp_path, *notes, checked=[HOSTILE])
    address = write_report(tmp_path).as_uri()
    with launched() as browser, visit(browser, address) as seen:
        page = seen.page
        findings = page.locator(".finding")
        # Alarms first, and before the metrics.
        assert findings.locator(".severity").all_inner_texts() == ["▲ Alarm epochs 1 to 2", "● Note epochs 1 to 2"]
        assert findings.nth(1).locator(".sentence").text_content() == HOSTILE
        assert findings.nth(1).locator("a").count() == 0
        assert page.evaluate("document.querySelector('main > section').id") == "findings"
        assert findings.nth(0).locator("img").evaluate("image => image.naturalWidth") > 0
        findings.nth(0).locator(".to-evidence").click()
        expect(page.locator("#moment")).to_have_text("epoch 2 · step 199")
        expect(page.locator('[data-key="Saliency/sample 0"]')).to_be_in_viewport()
        assert page.url.endswith("#epoch=2&row=Saliency/sample+0")
        page.go_back()
        assert "owned" not in page.title()
        assert (seen.complaints, seen.requests) == ([], [address])


@needs_browser
def test_a_comparison_is_one_file_with_both_runs(tmp_path: Path) -> None:
    written(tmp_path / "a", found())
    small_run(tmp_path / "b")
    address = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html").as_uri()
    with launched() as browser, visit(browser, address) as seen:
        page = seen.page
        assert page.locator(".card").count() == 6
        assert page.locator("#findings h3").all_inner_texts() == ["a"]
        last = page.eval_on_selector_all(".card img", "images => images.map(image => image.src)")
        page.locator("#slider").fill("0")
        first = page.eval_on_selector_all(".card img", "images => images.map(image => image.src)")
        assert all(old != new for old, new in zip(last, first, strict=True))
        assert (seen.complaints, seen.requests) == ([], [address])
