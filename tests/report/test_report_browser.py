import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect

from tests.helpers.browser import Visit, needs_browser, visit
from tests.report.stores import FACTS, photograph, record, small_run, squares
from vis_callbacks.output.store import PictureStore
from vis_callbacks.report.html import write_report

pytestmark = needs_browser

PHONE = {"width": 360, "height": 740}
SCRIPT = "</script><script>document.title = 'owned'</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    small_run(folder)
    return write_report(folder).as_uri()


@pytest.fixture
def seen(chromium: Browser, report: str) -> Iterator[Visit]:
    """The small run's report; whatever a test does with it, it must not complain nor ask for anything."""
    with visit(chromium, report, viewport={"width": 1100, "height": 800}) as seen:
        yield seen
        assert seen.complaints == []
        assert seen.requests == [report]


def sources(page: Page) -> list[str]:
    return page.eval_on_selector_all(".card img", "images => images.map(image => image.src)")


def alternatives(page: Page) -> list[str]:
    return page.eval_on_selector_all(".card img", "images => images.map(image => image.alt)")


def moment(page: Page) -> str | None:
    return page.text_content("#moment")


def box(locator: Locator) -> FloatRect:
    found = locator.bounding_box()
    assert found is not None
    return found


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_it_opens_at_the_end_with_every_picture_decoded(seen: Visit) -> None:
    assert moment(seen.page) == "epoch 3 · step 299"
    sizes = seen.page.evaluate(
        "Promise.all([...document.querySelectorAll('.card img')].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert sizes == [112, 224, 224]


def test_the_slider_moves_all_pictures_at_once(seen: Visit) -> None:
    page = seen.page
    page.keyboard.press("Home")
    assert moment(page) == "before training"
    before, words = sources(page), alternatives(page)
    page.locator("#slider").fill("3")
    assert moment(page) == "epoch 3 · step 299"
    assert all(old != new for old, new in zip(before, sources(page), strict=True))
    assert all(old != new for old, new in zip(words, alternatives(page), strict=True))
    assert page.get_attribute("#slider", "aria-valuetext") == "epoch 3 · step 299"


def test_of_very_many_cards_those_in_the_window_show_the_moment(chromium: Browser, tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    for number in range(400):
        for epoch in range(2):
            store.add(record(f"Saliency/sample {number}", epoch, epoch * 10), squares(2 * number + epoch))
    in_window = """
        [...document.querySelectorAll('.card')].filter(card => {
            const {top, bottom} = card.getBoundingClientRect();
            return bottom > 0 && top < innerHeight;
        }).map(card => card.querySelector('img')).map(image => [image.naturalWidth, image.alt])
    """
    with visit(chromium, write_report(tmp_path).as_uri(), viewport={"width": 1100, "height": 800}) as seen:
        page, whole = seen.page, "document.documentElement.scrollHeight"
        for place in (0, 0.5, 1):
            page.evaluate(f"scrollTo(0, {place} * {whole})")
            for key, said in (("Home", "before training"), ("End", "epoch 1")):
                page.keyboard.press(key)
                page.wait_for_function(f"({in_window}).every(([width, words]) => width && words.includes('{said}'))")
                assert len(page.evaluate(in_window)) >= 4
        assert seen.complaints == []


def test_the_pixels_on_the_screen_are_those_of_the_moment(seen: Visit) -> None:
    card = seen.page.locator(".card img").nth(1)
    last = card.screenshot()
    seen.page.keyboard.press("ArrowLeft")
    assert card.screenshot() != last
    seen.page.keyboard.press("ArrowRight")
    assert card.screenshot() == last


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_of_one_chart_are_told_apart(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    store = small_run(tmp_path)
    names = ["loss", "val_loss", "train_loss", "test_loss", *(f"val_loss/dataloader_idx_{n}" for n in range(12))]
    for step in range(0, 300, 20):
        store.add_metrics(1, step, {name: place + step / 300 for place, name in enumerate(names)})
    look = """lines => lines.map(line => {
        const style = getComputedStyle(line);
        return [style.stroke, style.strokeDasharray].join(" ");
    })"""
    with visit(chromium, write_report(tmp_path).as_uri(), color_scheme=scheme) as seen:
        chart = seen.page.locator(".chart").first
        drawn = chart.locator(".area .line").evaluate_all(look)
        listed = chart.locator(".legend path").evaluate_all(look)
        assert len(drawn) == len(set(drawn)) == len(names)
        assert drawn[::-1] == listed
        ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert all(contrast(line.split(")")[0] + ")", ground) >= 3 for line in drawn)


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG, of two colours like ``rgb(1, 2, 3)``."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.strip("rgb()").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_keys_move_through_time_and_stop_at_its_ends(seen: Visit) -> None:
    page = seen.page
    moments = []
    for key in ("ArrowRight", "Home", "ArrowLeft", "ArrowRight", "ArrowRight", "End", "ArrowLeft"):
        page.keyboard.press(key)
        moments.append(page.input_value("#slider"))
    assert moments == ["3", "0", "0", "1", "2", "3", "2"]
    page.keyboard.press("Control+ArrowLeft")
    assert page.input_value("#slider") == "2"


def test_play_runs_from_the_start_to_the_end_and_can_be_paused(seen: Visit) -> None:
    page = seen.page
    page.click("#play")
    assert moment(page) == "before training"
    assert page.get_attribute("#play", "aria-label") == "Pause"
    expect(page.locator("#moment")).to_have_text("epoch 1 · step 99", timeout=5000)
    page.click("#play")
    page.wait_for_timeout(1200)
    assert moment(page) == "epoch 1 · step 99"
    page.locator("body").focus()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    expect(page.locator("#moment")).to_have_text("epoch 3 · step 299", timeout=8000)
    assert page.get_attribute("#play", "aria-label") == "Play"


def test_a_moment_without_a_picture_shows_the_last_one_and_a_failure_its_reason(seen: Visit) -> None:
    page = seen.page
    filters, failing = page.locator(".card").nth(0), page.locator(".card").nth(2)
    assert filters.locator(".stale").text_content() == "from epoch 2"
    page.keyboard.press("ArrowLeft")
    expect(filters.locator(".stale")).to_be_hidden()
    expect(failing.locator("img")).to_be_hidden()
    assert failing.locator(".gap").text_content() == "No picture: RuntimeError: out of memory"
    page.keyboard.press("ArrowLeft")
    expect(failing.locator(".gap")).to_be_hidden()
    expect(failing.locator("img")).to_be_visible()


def test_right_and_wrong_are_words_and_not_colours_alone(seen: Visit) -> None:
    page = seen.page
    verdict = page.locator(".card").nth(2).locator(".verdict")
    assert verdict.text_content() == "dog → dog 80 % ✓ right"
    page.keyboard.press("Home")
    assert verdict.text_content() == "dog → cat 20 % ✗ wrong"


def test_alternative_texts_say_what_is_seen(seen: Visit) -> None:
    assert alternatives(seen.page) == [
        "Filters, conv1; epoch 2",
        "Saliency, sample 0; epoch 3; image | saliency; label cat; predicted cat 80 %; ✓ right",
        "Saliency, sample 1; epoch 3; image | saliency; label dog; predicted dog 80 %; ✓ right",
    ]
    assert seen.page.locator("img:not([alt])").count() == 0
    assert seen.page.evaluate(
        "[...document.querySelectorAll('button')].every(b => b.textContent.trim() || b.getAttribute('aria-label'))"
    )


def test_charts_mark_the_moment_and_read_out_its_values(seen: Visit) -> None:
    page = seen.page
    loss = page.locator(".chart").nth(0)
    assert loss.locator("li").all_inner_texts() == ["validation 0.5", "train 0.45"]
    right = box(loss.locator(".cursor"))
    page.keyboard.press("Home")
    left, area = box(loss.locator(".cursor")), box(loss.locator(".area"))
    assert left["x"] == pytest.approx(area["x"], abs=2)
    assert right["x"] == pytest.approx(area["x"] + area["width"], abs=2)
    assert loss.locator("li").all_inner_texts() == ["validation 2", "train 1.8"]
    page.mouse.click(area["x"] + area["width"] * 0.66, area["y"] + 20)
    assert moment(page) == "epoch 2 · step 199"


def test_a_picture_is_enlarged_and_time_still_moves(seen: Visit) -> None:
    page = seen.page
    dialog = page.locator("dialog")
    expect(dialog).to_be_hidden()
    page.locator(".picture").nth(2).click()
    expect(dialog).to_be_visible()
    large = page.locator("#large-image")
    assert large.get_attribute("src") == sources(page)[2]
    assert page.locator("#strip button").count() == 4
    assert page.get_attribute("#strip button:nth-child(4)", "aria-current") == "true"
    page.keyboard.press("ArrowLeft")
    assert "out of memory" in dialog.inner_text()
    page.keyboard.press("ArrowLeft")
    assert large.get_attribute("src") == sources(page)[2]
    page.locator("#strip button").nth(0).click()
    assert moment(page) == "before training"
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.locator(".picture").nth(0).click()
    page.click("#close")
    expect(dialog).to_be_hidden()


def test_a_phone_shows_everything_without_sideways_scrolling(chromium: Browser, report: str) -> None:
    with visit(chromium, report, viewport=PHONE, device_scale_factor=2, has_touch=True) as seen:
        assert fits(seen.page)
        cut = seen.page.evaluate(
            "[...document.querySelectorAll('main *, .time-row *')].filter(e => e.getBoundingClientRect().right > 361)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert cut == []
        seen.page.locator(".picture").nth(1).click()
        assert fits(seen.page)
        large = box(seen.page.locator("#large-image"))
        assert large["x"] >= 0
        assert large["x"] + large["width"] <= 360


def test_the_slider_stays_in_reach(seen: Visit) -> None:
    seen.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    seen.page.wait_for_timeout(600)
    assert seen.page.evaluate("scrollY") > 100
    expect(seen.page.locator("#slider")).to_be_in_viewport()


@pytest.mark.parametrize(("motion", "scrolling"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_nothing_glides_where_less_motion_is_asked_for(
    chromium: Browser, report: str, motion: str, scrolling: str
) -> None:
    with visit(chromium, report, reduced_motion=motion) as seen:
        assert seen.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == scrolling


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme_with_readable_contrast(chromium: Browser, report: str, scheme: str) -> None:
    with visit(chromium, report, color_scheme=scheme) as seen:
        lightness = "c => c.match(/[\\d.]+/g).slice(0, 3).reduce((sum, v) => sum + +v, 0) / 765"
        ground = seen.page.evaluate(f"({lightness})(getComputedStyle(document.body).backgroundColor)")
        ink = seen.page.evaluate(f"({lightness})(getComputedStyle(document.body).color)")
        assert (ground > 0.9 and ink < 0.2) if scheme == "light" else (ground < 0.15 and ink > 0.8)
        assert seen.complaints == []


def test_paper_shows_the_moment_without_controls_on_white(chromium: Browser, report: str) -> None:
    with visit(chromium, report, color_scheme="dark") as seen:
        page = seen.page
        page.keyboard.press("Home")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for control in ("#play", "#slider", "nav"):
            expect(page.locator(control)).to_be_hidden()
        expect(page.locator("#moment")).to_be_visible()
        assert moment(page) == "before training"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        expect(page.locator("#seconds table")).to_be_visible()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        expect(page.locator("#seconds table")).to_be_hidden()
        assert page.pdf(format="A4").startswith(b"%PDF")


def test_hostile_names_do_nothing_and_break_nothing(chromium: Browser, tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    names = [SCRIPT, "<img src=x onerror=\"document.title='owned'\">", "x" * 10_000, "../../x", "😀", "\u2028"]
    for number, name in enumerate(names):
        texts = {"label": name, "predicted": name, "caption": name, "captions": (name, name)}
        store.add(record(f"A/{name}", 1, 9, **texts, scalars={name: 1.0}), squares(number))
        store.note(record(f"{name}/b", 1, 9, error=name))
        store.add_metrics(1, 9, {name: 1.0})
    store.write_facts({**FACTS, "model": SCRIPT, "notes": names})
    address = write_report(tmp_path).as_uri()
    with visit(chromium, address, viewport=PHONE) as seen:
        seen.page.locator(".picture").nth(0).click()
        seen.page.wait_for_timeout(200)
        assert "owned" not in seen.page.title().partition("·")[2]
        assert seen.page.title().startswith("</script>")
        assert seen.page.locator("main script, main img[onerror]").count() == 0
        assert fits(seen.page)
        assert (seen.complaints, seen.requests) == ([], [address])


def test_an_injected_script_would_be_stopped(seen: Visit) -> None:
    seen.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = `owned`'}))"
    )
    assert "owned" not in seen.page.title()
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)
    seen.complaints.clear()


@pytest.mark.parametrize("events", [0, 1])
def test_a_run_of_hardly_any_moments_opens(chromium: Browser, tmp_path: Path, events: int) -> None:
    store = PictureStore(tmp_path)
    store.add_metrics(0, 0, {"val_acc": 0.5})
    for _ in range(events):
        store.add(record("Filters/conv1", 0, 0, scalars={"norm": 1.0}), squares(0))
    with visit(chromium, write_report(tmp_path).as_uri()) as seen:
        seen.page.keyboard.press("ArrowRight")
        seen.page.keyboard.press(" ")
        assert seen.page.locator(".card").count() == events
        assert seen.complaints == []


@pytest.mark.slow
def test_fifty_epochs_of_forty_photographs_stay_small_and_open_at_once(chromium: Browser, tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    # Shifted and as JPEG, they are as hard to pack as 2000 photographs in PNG, and made in a tenth of the time.
    photographs = [photograph(sample) for sample in range(40)]
    for number in range(2000):
        epoch, sample = divmod(number, 40)
        row = record(f"Saliency/{sample}", epoch, epoch * 100, file=f"{number}.jpg")
        store.note(row)
        shifted = np.roll(photographs[sample], 3 * epoch, axis=0)
        Image.fromarray(shifted).save(store.directory / f"{number}.jpg", quality=95, subsampling=0)
    path = write_report(tmp_path)
    assert 5e6 < path.stat().st_size < 25e6
    for picture in store.directory.glob("*.jpg"):
        picture.unlink()  # pytest would keep 200 MB; and the report stands alone
    start = time.perf_counter()
    with visit(chromium, path.as_uri()) as seen:
        seen.page.evaluate("document.querySelector('.card img').decode()")
        assert time.perf_counter() - start < 3
        assert seen.page.locator(".card").count() == 40
        before = sources(seen.page)
        moved = seen.page.evaluate(
            """async () => {
                const start = performance.now();
                document.querySelector("#slider").value = 10;
                document.querySelector("#slider").dispatchEvent(new Event("input"));
                await Promise.all([...document.querySelectorAll(".card img")].map((image) => image.decode()));
                return performance.now() - start;
            }"""
        )
        assert moved < 2000
        assert all(old != new for old, new in zip(before, sources(seen.page), strict=True))
        assert seen.complaints == []
