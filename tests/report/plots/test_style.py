"""Colours of methods, captions."""

import pytest
from PIL import Image

from vpjax.report.plots import style


@pytest.mark.parametrize("count", [1, 7, 8, 20, 35])
def test_methods_look_different_and_the_same_in_any_order(count):
    names = [f"method {i}" for i in range(count)]
    drawn = style.looks(names)
    assert drawn == style.looks(reversed(names))
    assert len(set(drawn.values())) == count
    colours = {look.colour for look in drawn.values()}
    assert len(colours) == min(count, len(style.PALETTE))


def test_known_methods_keep_their_colours_beside_any_others():
    few = style.looks(["vpt_deep", "linear"])
    many = style.looks([f"a{i}" for i in range(30)] + ["linear", "vpt_deep", "bias"])
    assert all(few[name] == many[name] for name in few)


def test_marks_and_lines_go_together():
    assert len(style.MARKS) == len(style.LINES) == len(set(style.LINES))


@pytest.mark.parametrize(
    ("counts", "text"),
    [((3, 3), "n = 3 seeds"), ((1,), "n = 1 seed"), ((5, 1), "n = 1 to 5 seeds"), ((), "")],
)
def test_seeds(counts, text):
    assert style.seeds_text(counts) == text


def test_a_caption_is_below_and_inside_the_figure(tmp_path):
    figure = style.figure_of(3.0, 2.0)
    axes = figure.subplots()
    text = "Means over seeds, n = 3 seeds; " * 6
    style.describe(figure, text)
    figure.draw_without_rendering()
    (shown,) = [t for t in figure.texts if t.get_text().startswith("Means")]
    box = shown.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    assert box.y1 < axes.get_tightbbox().y0 + 1
    style.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Description"] == text
