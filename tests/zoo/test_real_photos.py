"""Real pictures in class folders, with a real DINOv2-small: from the folder to a model in use.

Debian's packages tuxpaint-stamps-default and openclipart-png, installed or unpacked in VPJAX_REAL,
which also holds dinov2_small_hf.safetensors and its configuration.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpjax
from tests.helpers.pages import parsed
from tests.helpers.runs import command, main, result
from vpjax.data import images

REAL = Path(os.environ.get("VPJAX_REAL", "/nowhere"))
# For each collection: classes and the folders of their pictures, and the least accuracy.
COLLECTIONS = {
    "tuxpaint/stamps": (
        {
            "birds": "animals/birds",
            "fruit": "food/fruit",
            "vegetables": "food/vegetables",
            "hats": "clothes/hats",
            "fish": "animals/fish",
        },
        50,  # of 12 images; chance: 20
    ),
    "openclipart/png": (
        {
            "animals": "animals",
            "fruit": "food/fruit",
            "people": "people",
            "vehicles": "transportation",
        },
        40,  # chance: 25
    ),
}
EACH = 25  # images of a class
SMALL = 4096  # bytes of a file; a blank picture packs into fewer
LARGE = 200_000  # those take long to draw

pytestmark = [pytest.mark.real, pytest.mark.slow]

# Runs without vpjax: photos as the export's JSON file says, to probabilities.
ELSEWHERE = """
import json, sys
import numpy as np
from jax import export
from PIL import Image

assert not any(name.startswith("vpjax") for name in sys.modules)
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
size = json.load(open(sys.argv[1] + ".json"))["input"]["shape"][1:3]
def read(path):
    photo = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", photo.size, "white")
    photo = Image.alpha_composite(white, photo).convert("RGB")
    short = min(photo.size)
    photo = photo.resize([256 * s // short for s in photo.size], Image.BICUBIC)
    left, top = (photo.width - size[1]) // 2, (photo.height - size[0]) // 2
    return np.asarray(photo.crop((left, top, left + size[1], top + size[0])))
found = program.call(np.stack([read(p) for p in sys.argv[2:]]))["probabilities"]
print(json.dumps(np.asarray(found).tolist()))
"""


def pictures(name):
    found = [p for p in (REAL / name, Path("/usr/share") / name) if p.is_dir()]
    if not found:
        pytest.skip(f"no {name}: install tuxpaint-stamps-default and openclipart-png")
    return found[0]


@pytest.mark.parametrize("name", COLLECTIONS)
def test_photos_to_a_model_in_use(name, tmp_path):
    """Train, evaluate, predict, look at the page, and export to where there is no vpjax."""
    weights = REAL / "dinov2_small_hf.safetensors"
    if not weights.exists():
        pytest.skip("VPJAX_REAL is no folder with dinov2_small_hf.safetensors")
    classes, least = COLLECTIONS[name]
    top, photos = pictures(name), tmp_path / "photos"
    for label, place in classes.items():
        (photos / label).mkdir(parents=True)
        small = [p for p in sorted((top / place).rglob("*.png")) if p.stat().st_size < LARGE]
        for file in small[:EACH]:
            shutil.copy(file, photos / label)

    run = tmp_path / "run"
    done = command(
        "train", str(photos), "--config", f"photos:backbone={weights}", "--workdir", str(run)
    )
    assert done.returncode == 0, done.stderr_text
    found = result(run)
    assert found["image_size"] == [224, 224] and found["test_accuracy"] > least
    done = command("eval", "--workdir", str(run))
    assert "equal to the recorded test accuracy" in done.stdout_text

    page = parsed(run / "run.html")
    for word in (*classes, "Mistakes", "Curves", "model.safetensors"):
        assert word in page.words
    listed = [
        run / link
        for link in page.links
        if "://" not in link and not link.startswith(("#", "data:"))
    ]
    assert listed and all(path.exists() for path in listed)

    shown, table = tmp_path / "shown.html", tmp_path / "table.csv"
    words = ["--output", str(shown), "--output", str(table), "--batch_size", "8"]
    done = command("predict", "--workdir", str(run), *words, str(photos))
    assert done.returncode == 0, done.stderr_text
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(list((photos / c).iterdir())) for c in classes)
    assert len(parsed(shown).images) == len(rows)

    alone = shutil.copy(run / "model.safetensors", tmp_path / "learnt.safetensors")
    some = [row["path"] for row in rows[:: len(rows) // 6]]
    before = vpjax.load_run(run).predict(some).probabilities
    after = vpjax.load_run(alone).predict(some).probabilities
    np.testing.assert_array_equal(before, after)

    # In a process of its own, where shapes are not checked: the batch size is a symbol.
    main("export", "--workdir", str(run), str(tmp_path / "run.stablehlo"))
    code = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "run.stablehlo"), *some]
    done = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), before, atol=1e-4)

    done = command(
        "export", "--workdir", str(run), "--format", "transformers", str(tmp_path / "hf")
    )
    assert done.returncode == 0, done.stderr_text
    again = vpjax.load_backbone(str(tmp_path / "hf"))
    assert again.preset == vpjax.load_backbone(str(weights)).preset


def test_no_clip_art_is_blank_because_it_is_transparent():
    """But for files without a visible pixel, which nothing can be seen in."""
    top = pictures("openclipart/png")
    small = [p for p in sorted(top.rglob("*.png")) if p.stat().st_size < SMALL]
    assert len(small) > 100
    blank = []
    for file in small:
        image = images.decode(file.read_bytes(), 3, images.PLAIN)
        with Image.open(file) as stored:
            shows_nothing = stored.convert("RGBA").getchannel("A").getextrema() == (0, 0)
        if (image == image[:1, :1]).all() and not shows_nothing:
            blank.append(str(file.relative_to(top)))
    assert not blank, f"{len(blank)} of {len(small)}: {blank}"
