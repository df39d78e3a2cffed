"""Pictures of mistakes and of calibration: what is shown, and what it says."""

import numpy as np
import pytest
from PIL import Image

from tests.runs.test_split_files import CLASSES, LABELS, SHARES, said, several
from vpjax.data.files import PHOTO, Files
from vpjax.data.source import Source
from vpjax.report.plots.calibration import calibration
from vpjax.report.plots.mistakes import mistakes, picture, sections
from vpjax.report.plots.subject import Answered


@pytest.fixture
def source(tmp_path):
    """Five photos, each of one colour, with long names."""
    names = []
    for i in range(5):
        names.append(f"{'a' * 30}{i}.png")
        Image.new("RGB", (300, 400), (50 * i, 0, 0)).save(tmp_path / names[-1])
    files = Files(tmp_path, [(n, int(k)) for n, k in zip(names, LABELS, strict=True)])
    return Source("photos", CLASSES, files, PHOTO)


def test_the_worst_come_first_with_both_classes(source):
    shown = sections(Answered(said(), CLASSES, source))
    assert [s.title for s in shown] == [
        "Surest mistakes",
        "Least sure",
        "cat taken for dog: 2; the other way: 1",
    ]
    assert [s.image for s in shown[0].shown] == [1, 4, 2]
    assert shown[0].shown[0].lines == ("dog (80 %)", "is cat (10 %)")
    assert shown[1].shown[0].lines == ("cat (50 %)", "or dog (45 %)")


def test_the_figure_has_the_pictures(source):
    answered = Answered(said(), CLASSES, source)
    assert picture(answered, 4).shape == (200, 150, 3) and picture(answered, 4)[0, 0, 0] == 200
    figure = mistakes(answered)
    shown = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert [int(pixels[0, 0, 0]) for pixels in shown[:3]] == [50, 200, 100]
    figure.canvas.draw()
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert max(map(len, texts)) <= 24 and texts[2].startswith("…")


def test_nothing_wrong_and_several_classes(source):
    right = said(np.eye(3, dtype=np.float32)[LABELS], LABELS)
    assert [s.title for s in sections(Answered(right, CLASSES, source)) if s.shown] == [
        "Least sure"
    ]
    mistakes(Answered(right, CLASSES, source)).canvas.draw()
    shown = sections(Answered(several(), CLASSES, source))
    assert shown[0].shown[0].lines == ("owl", "60 %")
    mistakes(Answered(several(), CLASSES, source)).canvas.draw()


def test_calibration_with_and_without_a_temperature(source):
    figure = calibration(Answered(said(), CLASSES, source))
    above, below = figure.axes
    labels = [t.get_text() for t in above.get_legend().get_texts()]
    assert len(labels) == 1 and labels[0].startswith("as trained: ECE ")
    assert sum(bar.get_height() for bar in below.patches) == len(SHARES)
    found = said(temperature=1.5, tempered=np.full(5, 0.4, np.float32))
    labels = calibration(Answered(found, CLASSES, source)).axes[0].get_legend().get_texts()
    assert labels[1].get_text() == "temperature 1.50: ECE 0.0 %"  # 40 % sure, 2 of 5 right
