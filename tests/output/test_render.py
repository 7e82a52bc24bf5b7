import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vis_callbacks.output.render import _font, _wrapped, describe, render
from vis_callbacks.panel import Panel, Tile

NAN, INF = float("nan"), float("inf")
MAGENTA = [255, 0, 255]
HOSTILE = [
    "x" * 10_000,
    "word " * 2_000,
    "😀👩‍👩‍👧" * 50,
    "a\nb\r\tc\0\x1b[31m\x07",
    "مرحبا بالعالم שלום",
    "\ud800\u202e\ufeff",
    "Z" + "̀" * 500,
    "汉字" * 300,
    " \n ",
    "%s {0} <b>$x$</b>",
]


def tiles_of(*tiles: Tile, columns: int | None = None) -> np.ndarray:
    return render(Panel("p", tiles, columns=columns), text=False)


def colours(values: list[float], kind: str, limit: float | None = 1.0) -> np.ndarray:
    """The colour of each value, read from the middle of its block."""
    picture = tiles_of(Tile(torch.tensor([values]), kind, limit=limit))
    block = picture.shape[1] // len(values)
    return picture[block // 2, block // 2 :: block].astype(int)


def contains(whole: np.ndarray, part: np.ndarray) -> bool:
    height, width, _ = part.shape
    return any(
        np.array_equal(whole[top : top + height, left : left + width], part)
        for top in range(whole.shape[0] - height + 1)
        for left in range(whole.shape[1] - width + 1)
        if np.array_equal(whole[top, left : left + width], part[0])
    )


# What the colours mean


def test_image_is_clipped_to_its_range():
    assert colours([-1.0, 0.0, 0.5, 1.0, 7.0], "image").tolist() == [[v] * 3 for v in (0, 0, 128, 255, 255)]


def test_image_keeps_its_channels():
    image = torch.zeros(3, 224, 224)
    image[0], image[2] = 1.0, 0.2
    assert (tiles_of(Tile(image)) == [255, 0, 51]).all()


def test_zero_is_neutral_and_apart_from_the_page_in_a_signed_tile():
    zero = colours([0.0], "signed")[0]
    assert np.ptp(zero) == 0
    assert zero.max() < 240


def test_positive_is_red_and_negative_is_blue():
    negative, positive = colours([-0.3, 0.3], "signed")
    assert negative[2] > negative[0] + 20
    assert positive[0] > positive[2] + 20


def test_signed_scale_is_symmetric_even_for_one_sided_values():
    assert colours([0.0, 1.0], "signed", None)[0].tolist() == colours([-1.0, 0.0], "signed", None)[1].tolist()
    assert colours([0.0, 1.0], "signed", None)[0].tolist() == colours([0.0], "signed", 1.0)[0].tolist()


def test_a_response_is_dark_at_zero_and_bright_at_both_ends() -> None:
    values = torch.linspace(-1, 1, 41)
    found = colours(values.tolist(), "response").astype(int)
    lightness = found @ [0.299, 0.587, 0.114]
    assert found[20].max() <= 4  # zero is black
    assert (lightness[21:] - lightness[20:-1] > 0).all()
    assert (lightness[:20] - lightness[1:21] > 0).all()
    assert min(lightness[0], lightness[-1]) > 220
    # Warm and cold are told apart where they are neither black nor almost white.
    middle = (values.abs() > 0.32) & (values.abs() < 0.88)
    warm, cold = found[(middle & (values > 0)).numpy()], found[(middle & (values < 0)).numpy()]
    assert (warm[:, 0] > warm[:, 2]).all()
    assert (cold[:, 2] > cold[:, 0] + 40).all()
    # Where nothing is negative, the colours are those of heat.
    heat = colours(values[20:].tolist(), "heat").astype(int)
    assert abs(heat - found[20:]).max() <= 12


def test_signed_lightness_falls_evenly_to_both_sides():
    lightness = colours(torch.linspace(-1, 1, 21).tolist(), "signed") @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness[:11]) > 0).all()
    assert (np.diff(lightness[10:]) < 0).all()
    assert np.abs(lightness - lightness[::-1]).max() < 40


def test_signed_colour_is_around_mid_gray():
    values = torch.zeros(3, 8, 8)
    values[0], values[1] = 2.0, -2.0
    assert tiles_of(Tile(values, "signed", limit=2.0))[0, 0].tolist() == [255, 0, 128]
    assert tiles_of(Tile(values, "signed", limit=4.0))[0, 0].tolist() == [191, 64, 128]


@pytest.mark.parametrize("kind", ["heat", "gray"])
def test_sequential_scale_is_dark_at_zero_and_gets_lighter(kind):
    lightness = colours(torch.linspace(0, 1, 21).tolist(), kind) @ [0.299, 0.587, 0.114]
    assert lightness[0] < 3
    assert (np.diff(lightness) > 0).all()
    assert colours([-1.0], kind).tolist() == colours([0.0], kind).tolist()


@pytest.mark.parametrize("kind", ["heat", "gray", "signed", "response"])
def test_same_limit_same_colour_whatever_else_is_in_the_tile(kind):
    early, late = colours([0.2, 0.4], kind, 2.0), colours([0.2, 1.9, 5.0], kind, 2.0)
    assert early[0].tolist() == late[0].tolist()
    assert colours([2.0], kind, 2.0).tolist() == colours([9.0], kind, 2.0).tolist()


@pytest.mark.parametrize("kind", ["heat", "gray", "signed", "response"])
def test_scaling_without_a_limit_ignores_the_unit(kind):
    values = torch.randn(1, 28, 28)
    assert np.array_equal(tiles_of(Tile(values, kind)), tiles_of(Tile(values * 1024, kind)))


def test_one_outlier_does_not_darken_the_rest():
    heat = torch.full((1, 32, 32), 1.0)
    heat[0, 0, 0] = 1e6
    assert tiles_of(Tile(heat, "heat"))[-1, -1].tolist() == colours([1.0], "heat")[0].tolist()


def test_a_few_bright_pixels_are_seen_and_told_apart():
    heat = torch.zeros(1, 32, 32)
    heat[0, 0, 0], heat[0, -1, -1] = 1e-3, 0.5e-3
    picture = tiles_of(Tile(heat, "heat"))
    assert [picture[0, 0].tolist(), picture[-1, -1].tolist()] == colours([1.0, 0.5], "heat").tolist()


@pytest.mark.parametrize("limit", [None, 0.0, -1.0, NAN, INF, 1e-45, 1e-300, 1e300])
@pytest.mark.parametrize("kind", ["heat", "gray", "signed", "response"])
def test_all_zero_is_zero_whatever_the_limit(kind, limit):
    assert (tiles_of(Tile(torch.zeros(1, 8, 8), kind, limit=limit)) == colours([0.0], kind)[0]).all()


@pytest.mark.parametrize("kind", ["image", "heat", "gray", "signed", "response"])
def test_what_is_not_finite_is_magenta_and_the_rest_is_as_it_was(kind):
    seen = colours([NAN, INF, -INF, 0.5, 1.0], kind, None)
    assert seen[:3].tolist() == [MAGENTA] * 3
    assert seen[3:].tolist() == colours([0.5, 1.0], kind, None).tolist()


@pytest.mark.parametrize("kind", ["image", "signed"])
def test_one_channel_that_is_not_finite_marks_the_pixel(kind):
    values = torch.zeros(3, 224, 224)
    values[1, 5, 7] = NAN
    marked = (tiles_of(Tile(values, kind)) == MAGENTA).all(axis=2)
    assert np.argwhere(marked).tolist() == [[5, 7]]


@pytest.mark.parametrize("kind", ["image", "heat", "gray", "signed", "response"])
@pytest.mark.parametrize("fill", [NAN, INF, 3e38, -3e38, 1e-45])
def test_extreme_tiles_draw_without_a_warning(kind, fill):
    assert tiles_of(Tile(torch.full((1, 8, 8), fill), kind)).shape == (224, 224, 3)


# Overlays


def test_overlay_is_its_backdrop_at_alpha_0_and_its_heat_at_alpha_1():
    heat, photo = torch.rand(1, 224, 224), torch.rand(3, 224, 224)
    assert np.array_equal(tiles_of(Tile(heat, "heat", backdrop=photo, alpha=0.0)), tiles_of(Tile(photo)))
    assert np.array_equal(tiles_of(Tile(heat, "heat", backdrop=photo, alpha=1.0)), tiles_of(Tile(heat, "heat")))


@pytest.mark.parametrize("kind", ["heat", "signed", "response"])
def test_overlay_blends_with_a_constant_weight(kind):
    heat, photo = torch.rand(1, 224, 224), torch.rand(1, 224, 224)
    expected = 0.3 * tiles_of(Tile(heat, kind)) + 0.7 * tiles_of(Tile(photo))
    assert np.abs(tiles_of(Tile(heat, kind, backdrop=photo, alpha=0.3)) - expected).max() <= 0.51


def test_coarse_heat_is_interpolated_over_its_backdrop():
    heat = torch.zeros(1, 7, 7)
    heat[0, 0, 6] = 1.0
    seen = tiles_of(Tile(heat, "gray", limit=1.0, backdrop=torch.zeros(3, 224, 224), alpha=1.0))[..., 0]
    assert seen.shape == (224, 224)
    assert seen[0, -1] == 255
    assert seen[-1].max() == seen[:, 0].max() == 0
    assert len(np.unique(seen[0])) > 20


# Sizes


@pytest.mark.parametrize(
    ("size", "expected"), [(3, 225), (7, 224), (8, 224), (28, 224), (32, 224), (96, 192), (224, 224)]
)
def test_small_tiles_are_enlarged_by_a_whole_factor(size, expected):
    image = torch.rand(3, size, size)
    picture = tiles_of(Tile(image))
    assert picture.shape == (expected, expected, 3)
    factor = expected // size
    blocks = picture.reshape(size, factor, size, factor, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert np.array_equal(blocks[:, 0, :, 0], np.floor(image.permute(1, 2, 0).numpy() * 255 + 0.5))


@pytest.mark.parametrize("size", [3, 7, 28])
def test_a_grid_of_64_small_tiles_is_one_handy_picture_with_crisp_pixels(size):
    tiles = [Tile(torch.rand(3, size, size)) for _ in range(64)]
    picture = tiles_of(*tiles, columns=8)
    assert 440 <= picture.shape[1] <= 750
    assert picture.shape[0] == picture.shape[1]
    factor = round(56 / size)
    side = factor * size
    last = picture[-side:, -side:].reshape(size, factor, size, factor, 3)
    assert np.array_equal(last[:, 0, :, 0], np.floor(tiles[-1].values.permute(1, 2, 0).numpy() * 255 + 0.5))


def test_columns_break_rows_and_the_last_row_is_filled_with_white():
    tiles = [Tile(torch.zeros(1, 32, 32))] * 3
    one_row, two_rows = tiles_of(*tiles), tiles_of(*tiles, columns=2)
    assert one_row.shape[1] > 3 * 200
    assert two_rows.shape[0] == two_rows.shape[1] == 2 * 224 + 10
    assert (two_rows[234:, 234:] == 255).all()
    assert (two_rows[234:, :224] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20), (480, 640), (1000, 250), (1, 7), (5000, 50)])
def test_aspect_is_kept(height, width):
    shape = tiles_of(Tile(torch.rand(1, height, width))).shape
    assert shape[0] / height == pytest.approx(max(shape[1] / width, shape[0] / height), rel=0.01)
    assert 150 <= max(shape) <= 512


def test_big_tiles_are_reduced_with_antialiasing():
    lines = torch.zeros(1, 1024, 1024)
    lines[:, ::2] = 1.0
    picture = tiles_of(Tile(lines))
    assert picture.shape == (512, 512, 3)
    assert picture[5:-5].min() > 100
    assert picture[5:-5].max() < 155


@pytest.mark.parametrize("count", [8, 40, 200])
def test_a_row_is_never_too_wide(count):
    panel = Panel("p", [Tile(torch.rand(3, 224, 224), caption="c")] * count)
    assert render(panel).shape[1] < 1700
    assert render(panel, text=False).shape[1] <= 1600


def test_tiles_of_different_sizes_are_brought_to_one():
    coarse = torch.rand(1, 7, 7)
    picture = tiles_of(Tile(torch.zeros(3, 224, 224)), Tile(coarse, "gray", limit=1.0))
    assert picture.shape == (224, 458, 3)
    blocks = picture[:, 234:, 0].reshape(7, 32, 7, 32)
    assert np.array_equal(blocks[:, 0, :, 0], np.floor(coarse[0].numpy() * 255 + 0.5))
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_an_odd_aspect_is_centred_in_its_cell():
    picture = tiles_of(Tile(torch.zeros(3, 224, 224)), Tile(torch.zeros(1, 14, 7)))
    dark = (picture[:, 234:] == 0).all(axis=(0, 2))
    assert np.flatnonzero(dark).tolist() == list(range(56, 168))


def test_a_transposed_panel_is_the_transposed_picture():
    values = torch.rand(3, 20, 50)
    assert np.array_equal(tiles_of(Tile(values)), tiles_of(Tile(values.mT)).swapaxes(0, 1))


def test_tensors_that_are_not_contiguous_are_fine():
    heat = torch.rand(1, 9, 5).mT
    photo = torch.rand(1, 1, 1).expand(3, 28, 28)
    assert np.array_equal(
        tiles_of(Tile(heat, "heat", backdrop=photo)),
        tiles_of(Tile(heat.contiguous(), "heat", backdrop=photo.contiguous())),
    )


# Text


def digit(**more) -> Panel:
    tiles = [Tile(torch.rand(1, 28, 28), caption="input"), Tile(torch.randn(1, 28, 28), "signed", caption="evidence")]
    return Panel("digit", tiles, **{"label": "7", "predicted": "9", "probability": 0.834, **more})


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({}, "✗ 7 → predicted 9 (83 %)"),
        ({"predicted": "7"}, "✓ 7 (83 %)"),
        ({"label": None}, "predicted 9 (83 %)"),
        ({"predicted": None}, "7"),
        ({"probability": None}, "✗ 7 → predicted 9"),
        ({"label": None, "predicted": None}, ""),
    ],
)
def test_describe_says_what_is_known(known, line):
    assert describe(digit(**known)) == line


def test_describe_shortens_names_so_that_both_are_seen():
    line = describe(digit(label="a" * 99, predicted="b" * 99))
    assert len(line) < 100
    assert "aaaa…" in line
    assert "bbbb…" in line


def test_describe_is_one_clean_line():
    assert describe(digit(label="a\n\tb\0\u202e\ud800c", predicted=None)) == "a b c"


def test_text_breaks_between_words_and_ends_in_an_ellipsis():
    font = _font(20)
    lines = _wrapped("the quick brown fox jumps over the lazy dog", font, 150, 3)
    assert lines[:2] == ["the quick", "brown fox"]
    assert lines[2].startswith("jumps")
    assert lines[2].endswith("…")
    assert max(map(font.getlength, lines)) <= 150
    assert "".join(_wrapped("antidisestablishmentarianism", font, 150, 3)) == "antidisestablishmentarianism"


def test_text_is_added_around_the_same_tiles():
    panel = digit(caption="SmoothGrad, 25 samples")
    plain, whole = render(panel, text=False), render(panel)
    assert whole.shape[0] > plain.shape[0]
    assert contains(whole, plain)


def test_every_row_of_tiles_is_the_same_with_captions_between():
    panel = Panel("p", [Tile(torch.rand(1, 28, 28), caption=str(i)) for i in range(6)], columns=3)
    plain, whole = render(panel, text=False), render(panel)
    assert contains(whole, plain[:224])
    assert contains(whole, plain[-224:])
    assert not contains(whole, plain)


@pytest.mark.parametrize("where", ["sample line", "tile caption", "panel caption"])
def test_each_text_is_drawn_in_its_place(where):
    def draw(word: str) -> np.ndarray:
        tile = Tile(torch.zeros(1, 28, 28), caption=word if where == "tile caption" else "tile")
        caption = word if where == "panel caption" else "note"
        return render(Panel("p", tile, caption=caption, label=word if where == "sample line" else "name"))

    one, other = draw("one"), draw("two")
    changed = np.flatnonzero((one != other).any(axis=(1, 2)))
    tile = np.flatnonzero((one == 0).all(axis=2).sum(axis=1) > 200)
    assert changed.size
    assert changed.max() < tile.min() if where == "sample line" else changed.min() > tile.max()


def test_right_and_wrong_differ_without_their_colour():
    right, wrong = (render(digit(label="7", predicted=predicted, probability=None)) for predicted in "79")
    assert right.shape == wrong.shape
    marks = [picture[:30, :32].min(axis=2) < 160 for picture in (right, wrong)]
    assert marks[0].sum() > 10
    assert marks[1].sum() > 10
    assert (marks[0] != marks[1]).sum() > 10


def test_text_grows_with_the_picture():
    def share_of_text(edge: int) -> float:
        tiles = [Tile(torch.rand(3, edge, edge))] * 3
        plain, whole = (render(Panel("p", tiles, label="cat"), text=text) for text in (False, True))
        return (whole.shape[0] - plain.shape[0]) / whole.shape[1]

    assert share_of_text(224) == pytest.approx(share_of_text(500), abs=0.03)


def test_captions_of_a_grid_shrink_to_fit_one_line():
    def height(caption: str) -> int:
        return render(Panel("p", [Tile(torch.rand(1, 28, 28), caption=caption)] * 8, columns=8)).shape[0]

    assert height("channel 12") < height("12")


@pytest.mark.parametrize("count", [1, 2, 8])
def test_captions_are_not_larger_than_the_sample_line(count):
    def height(**more: str) -> int:
        tile = Tile(torch.zeros(3, 224, 224), caption=more.get("caption", ""))
        return render(Panel("p", [tile] * count, label=more.get("label"))).shape[0]

    assert 10 < height(caption="input") - height() <= height(label="input") - height()


def test_a_narrow_picture_gets_room_for_its_text():
    panel = Panel("p", Tile(torch.rand(1, 224, 16)), label="Egyptian cat", predicted="tabby")
    assert render(panel, text=False).shape == (224, 16, 3)
    assert render(panel).shape[1] >= 224
    assert contains(render(panel), render(panel, text=False))


def test_nothing_to_say_leaves_the_tiles_and_a_margin():
    panel = Panel("p", Tile(torch.zeros(1, 28, 28)))
    picture = render(panel)
    assert contains(picture, render(panel, text=False))
    assert max(picture.shape) < 224 + 30


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("edge", [8, 224])
def test_hostile_text_neither_crashes_nor_blows_up_the_picture(text, edge):
    tiles = [Tile(torch.rand(1, edge, edge), caption=text), Tile(torch.rand(1, edge, edge))]
    panel = Panel(text, tiles, caption=text, label=text, predicted=text + "!", probability=NAN)
    plain, whole = render(panel, text=False), render(panel)
    assert whole.shape[1] <= plain.shape[1] + 40
    assert whole.shape[0] <= plain.shape[0] + 260
    assert contains(whole, plain)


def test_long_text_ends_before_the_edge_of_the_picture():
    picture = render(Panel("p", Tile(torch.full((3, 224, 224), 1.0)), caption="W" * 10_000, label="W" * 10_000))
    assert (picture < 200).any()
    assert (picture[:, -4:] == 255).all()
    assert (picture[-4:] == 255).all()


# Where it runs


def test_every_thread_draws_the_same_picture():
    panels = [digit(caption="one"), Panel("p", [Tile(torch.rand(3, 7, 7), caption="é")] * 16, columns=4)] * 8
    expected = [render(panel) for panel in panels]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(np.array_equal, pool.map(render, panels), expected))


def test_the_random_state_and_the_panel_are_left_as_found():
    panel = digit()
    before = [tile.values.clone() for tile in panel.tiles]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    render(panel)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(tile.values, values) for tile, values in zip(panel.tiles, before, strict=True))


def test_the_picture_belongs_to_the_caller():
    for text in (True, False):
        picture = render(digit(), text=text)
        expected = picture.copy()
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        picture[:] = 0
        assert not np.array_equal(picture, expected)


def test_pyplot_is_not_imported():
    code = (
        "import sys, torch; from vis_callbacks import Panel, Tile; from vis_callbacks.output.render import render;"
        "render(Panel('p', Tile(torch.rand(1, 8, 8), 'heat', caption='c'), label='7'));"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'matplotlib.figure' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
