"""Pictures of results tables: marks at their values, names, places, pixels."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from tests.report.plots.test_curves import pixels, shows
from vpjax.report.plots.benchmark import rank_table, score_plot
from vpjax.report.plots.style import PALETTE, looks

SCORES = {
    "linear": {"a": (50.0, 1.0), "b": (60.0, None), "c": (55.0, 0.5)},
    "vpt_deep": {"a": (70.0, 2.0), "c": (75.0, 1.0)},
}


def marks(axes):
    """(x, y) of every mark of an error bar."""
    return [tuple(float(v[0]) for v in c.lines[0].get_data()) for c in axes.containers]


def test_every_number_has_a_mark_in_its_row():
    figure = score_plot(SCORES, "abc", {"linear": {"b": 65.0}}, ["first", "first", "second"])
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    found = marks(axes)
    assert [x for x, _ in found] == [50.0, 60.0, 55.0, 70.0, 75.0]
    assert [round(y) for _, y in found] == [0, 1, 2, 0, 2]
    upper, lower = found[0][1], found[3][1]
    assert upper < lower  # the first method above the second
    assert axes.yaxis_inverted()
    assert [c.has_xerr for c in axes.containers] == [True, False, True, True, True]
    (published,) = [c for c in axes.collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(published.get_offsets()[0], [65.0, found[1][1]])
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["linear", "vpt_deep", "published"]
    assert {t.get_text() for t in axes.texts} == {"first", "second"}
    image = pixels(figure)
    drawn = {look.colour for look in looks(SCORES).values()}
    assert all(shows(image, colour) == (colour in drawn) for colour in PALETTE[:3])


def test_many_methods_keep_apart_by_marks_and_do_not_meet_the_next_row():
    scores = {f"m{i}": {"a": (50.0 + i, 1.0), "b": (40.0 + i, 1.0)} for i in range(9)}
    figure = score_plot(scores, "ab")
    heights = sorted(y for _, y in marks(figure.axes[0]))
    assert max(heights[:9]) < 0.5 < min(heights[9:])
    seen = {(c.lines[0].get_color(), c.lines[0].get_marker()) for c in figure.axes[0].containers}
    assert len(seen) == 9
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 9
    assert legend.get_window_extent().y0 > figure.axes[0].bbox.y1


def test_twenty_methods_are_a_table_of_numbers():
    scores = {f"m{i}": {"a": (50.0 + i, 1.0), "b": (40.0 - i, 1.0)} for i in range(20)}
    del scores["m3"]["b"]
    figure = score_plot(scores, "ab", groups=["first", "second"])
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == list(scores)
    texts = [t.get_text() for t in axes.texts]
    assert texts[:4] == ["50.0", "40.0", "51.0", "39.0"] and texts.count("-") == 1
    shades = np.asarray(axes.images[0].get_array())
    assert shades[0].tolist() == [0, 1] and shades[19].tolist() == [1, 0] and np.isnan(shades[3, 1])
    pixels(figure)
    boxes = [t.get_window_extent() for t in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_no_score_is_said():
    with pytest.raises(ValueError, match="no score of linear"):
        score_plot({"linear": {}}, "ab")


def test_places_put_the_best_mean_on_top_over_shared_tasks():
    ranks = np.array([[2.0, 1.0, 1.0], [1.0, 2.0, np.nan], [3.0, 3.0, 2.0]])
    figure = rank_table(ranks, ["x", "y", "z"], ["a", "b", "c"])
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["x", "y", "z"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c", "mean rank"]
    texts = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert texts[0, 0] == "2" and texts[2, 2] == "2"
    assert (1, 2) not in texts  # no number, no rank
    assert [texts[i, 4] for i in range(3)] == ["1.50", "1.50", "3.00"]
    image = pixels(figure)
    assert (np.ptp(image, axis=-1) > 60).sum() > 500  # cells are blue


def test_places_check_their_shape():
    with pytest.raises(ValueError, match=r"ranks \(1, 2\) of 2 methods and 2 tasks"):
        rank_table(np.ones((1, 2)), ["x", "y"], ["a", "b"])
