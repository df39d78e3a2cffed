"""Pictures of sub-prompts: which images, where in the grid, and the files beside them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.report.plots import subprompts

GAMMAS = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.7, 0.1, 0.2], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05]]
)


def flat(value, size=(300, 400)):
    return np.full((*size, 3), value, np.uint8)


def test_top_is_stable():
    assert subprompts.top(GAMMAS, 3).tolist() == [[4, 0, 2], [1, 3, 0], [3, 2, 0]]
    assert subprompts.top(GAMMAS, 9).shape == (3, 5)


def test_usage():
    found = subprompts.usage(GAMMAS)
    assert found["share"] == [0.6, 0.2, 0.2]
    share = np.array(found["share"])
    assert found["effective"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    even = subprompts.usage(np.full((4, 8), 1 / 8))
    assert even["undecided"] == pytest.approx(1) and even["effective"] == 1
    assert subprompts.usage(np.eye(3))["effective"] == pytest.approx(3)
    assert subprompts.usage(np.eye(3))["undecided"] == 0
    assert subprompts.usage(np.ones((2, 1)))["effective"] == 1


@pytest.mark.parametrize(
    ("n", "columns", "rows"), [(2, 2, 1), (3, 3, 1), (4, 2, 2), (8, 2, 4), (16, 4, 4), (17, 4, 5)]
)
def test_grid(n, columns, rows):
    tiles = [flat(i + 1, (224, 224)) for i in range(n)]
    out = subprompts.grid(tiles)
    assert out.shape == (226 * rows + 2, 226 * columns + 2, 3)
    for i in range(n):
        row, column = divmod(i, columns)
        cell = out[2 + 226 * row : 226 * (row + 1), 2 + 226 * column : 226 * (column + 1)]
        assert (cell == i + 1).all()
    assert out[:2].max() == out[-2:].max() == out[:, :2].max() == out[:, -2:].max() == 0


def test_a_single_tile_has_no_border():
    assert subprompts.grid([flat(5, (224, 224))]).shape == (224, 224, 3)


def test_tile_is_the_middle():
    image = np.zeros((512, 1024, 3), np.uint8)
    image[:, 300:724] = 200  # what is left of 1024 after the crop lies within
    assert (subprompts.tile(image)[:, 16:-16] == 200).all()
    assert subprompts.tile(np.zeros((30, 50, 1), np.uint8)).shape == (224, 224, 3)


def test_files(tmp_path):
    asked = []

    def images(i):
        asked.append(i)
        return flat(40 * (i + 1))

    ids = [f"{i}.jpg" for i in range(5)]
    files = subprompts.draw_subprompts(tmp_path, 12, "danaus plexippus", GAMMAS, images, ids, 2)
    assert [f.name for f in files[:3]] == [f"class12_danaus_plexippus_k{k}.png" for k in range(3)]
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(f.name for f in files)
    assert sorted(asked) == [0, 1, 2, 3, 4]
    first = np.asarray(Image.open(files[0]))
    assert first.shape == (228, 454, 3)
    assert first[100, 100, 0] == 200 and first[100, 350, 0] == 40  # images 4 and 0
    found = json.loads((tmp_path / "class12_danaus_plexippus_usage.json").read_text())
    assert found["top"] == [[4, 0], [1, 3], [3, 2]] and found["share"] == [0.6, 0.2, 0.2]
    assert found["images"][3] == {"image": "3.jpg", "argmax": 2, "gamma": [0.25, 0.25, 0.5]}
    with open(tmp_path / "class12_danaus_plexippus_usage.csv") as file:
        rows = list(csv.DictReader(file))
    assert [r["argmax"] for r in rows] == ["0", "1", "0", "2", "0"]
    assert float(rows[4]["gamma_0"]) == 0.9
    bars = np.asarray(Image.open(files[-1]).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(bars, axis=0)) > 10


def test_only_what_is_shown_is_read(tmp_path):
    asked = []
    gammas = np.stack([np.linspace(0, 1, 9), np.linspace(0, 1, 9)], 1)
    load = lambda i: asked.append(i) or flat(i)  # noqa: E731
    subprompts.draw_subprompts(tmp_path, 0, "x/y", gammas, load, [""] * 9, 1)
    assert asked == [8] and (tmp_path / "class0_x_y_k1.png").exists()


def test_faults(tmp_path):
    with pytest.raises(UserError, match="class 3 .ant. has no images"):
        subprompts.draw_subprompts(tmp_path, 3, "ant", np.zeros((0, 2)), flat, [])
    with pytest.raises(UserError, match="top_n is 0"):
        subprompts.draw_subprompts(tmp_path, 3, "ant", GAMMAS, flat, [""] * 5, 0)
    assert not list(tmp_path.iterdir())
