"""Real pictures in class folders, with a real DINOv2-small: from the folder to an evaluated run.

Debian's packages tuxpaint-stamps-default and openclipart-png, installed or unpacked in VPJAX_REAL,
which also holds dinov2_small_hf.safetensors and its configuration.
"""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.runs import command, result
from vpjax.data import images

REAL = Path(os.environ.get("VPJAX_REAL", "/nowhere"))
STAMPS = {
    "birds": "animals/birds",
    "fruit": "food/fruit",
    "vegetables": "food/vegetables",
    "hats": "clothes/hats",
    "fish": "animals/fish",
}
EACH = 20  # images of a class
SMALL = 4096  # bytes of a file; a blank picture packs into fewer

pytestmark = [pytest.mark.real, pytest.mark.slow]


def pictures(name):
    found = [p for p in (REAL / name, Path("/usr/share") / name) if p.is_dir()]
    if not found:
        pytest.skip(f"no {name}: install tuxpaint-stamps-default and openclipart-png")
    return found[0]


@pytest.fixture
def stamps(tmp_path):
    """At most a hundred stamps, in a folder for each class."""
    top = pictures("tuxpaint/stamps")
    for name, place in STAMPS.items():
        (tmp_path / "stamps" / name).mkdir(parents=True)
        for file in sorted((top / place).rglob("*.png"))[:EACH]:
            shutil.copy(file, tmp_path / "stamps" / name)
    return tmp_path / "stamps"


@pytest.mark.parametrize("method", ["linear"])
def test_stamps_to_a_model(stamps, tmp_path, method):
    weights = REAL / "dinov2_small_hf.safetensors"
    if not weights.exists():
        pytest.skip("VPJAX_REAL is no folder with dinov2_small_hf.safetensors")
    run, recipe = tmp_path / "run", f"photos:method={method},backbone={weights}"
    done = command("train", str(stamps), "--config", recipe, "--workdir", str(run))
    assert done.returncode == 0, done.stderr_text
    found = result(run)
    assert found["image_size"] == [224, 224] and found["test_accuracy"] > 60  # chance: 20
    done = command("eval", "--workdir", str(run))
    assert "equal to the recorded test accuracy" in done.stdout_text


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
