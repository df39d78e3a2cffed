"""SA2VP and VPT-deep through main.py on a ViT and a small Swin: train, save, restore, evaluate."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.helpers import runs

VIT = ()
SWIN = (
    "--config.backbone.name=swin.Swin",
    "--config.backbone.weights=",
    "--config.backbone.variant=T",
    "--config.backbone.patch_size=1",
    "--config.backbone.window=4",
    "--config.backbone.embed_dim=16",
    "--config.backbone.depths=(1,2)",
    "--config.backbone.heads=(2,4)",
)
SA2VP = ("--config.method.name=sa2vp.SA2VP", "--config.optim.lr=3e-2")
QUICK = (
    "--config",
    "configs/digits.py:vpt_deep",
    "--config.train.eval_every=0.5",
    "--config.optim.warmup_epochs=0",
)


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        pytest.param(VIT, (), marks=pytest.mark.slow, id="vit-vpt_deep"),
        pytest.param(VIT, SA2VP, marks=pytest.mark.slow, id="vit-sa2vp"),  # as in the README
        pytest.param(SWIN, (), marks=pytest.mark.slow, id="swin-vpt_deep"),
        pytest.param(SWIN, SA2VP, id="swin-sa2vp"),
    ],
)
def test_trains_restores_and_draws(backbone, method, tmp_path):
    options = (*QUICK, *backbone, *method, "--config.train.save_every=0", f"--workdir={tmp_path}")
    whole = runs.command(*options, "--config.train.steps=40")
    assert whole.returncode == 0, whole.stderr_text
    losses = [float(r["loss"]) for r in history(tmp_path) if r.get("loss")]
    assert losses[-1] < 0.97 * losses[0]
    again = runs.command("eval", f"--workdir={tmp_path}")
    assert "equal to the recorded" in again.stdout_text + again.stderr_text, again.stderr_text
    drawn = runs.command("plot", "--image=3", "--patch=0,1", f"--workdir={tmp_path}")
    if method:
        assert drawn.returncode == 0, drawn.stderr_text
        assert np.asarray(Image.open(tmp_path / "prompt_map.png")).std() > 10
        outside = runs.command("plot", "--patch=9,9", f"--workdir={tmp_path}")
        assert outside.returncode == 2 and "outside the grid" in outside.stderr_text


def history(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))
