"""The lines of docs/export.md that use prompts in PyTorch compute what the run computes."""

import re

import numpy as np
import pytest

import vpjax
from tests.helpers.runs import HOME
from tests.zoo.loading import DATA

TEXT = (HOME / "docs" / "export.md").read_text()
CODE = re.search(r"<!-- recipe -->\n```python\n(.*?)```", TEXT, re.DOTALL)[1]
BASE = "vit_small_patch16_224.augreg_in21k"


def test_the_recipe_is_short():
    assert len(CODE.splitlines()) <= 20


@pytest.mark.zoo
@pytest.mark.parametrize("deep", [True, False])
def test_prompts_in_timm(deep, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    where = DATA / "timm_vit"
    backbone = vpjax.load_backbone(str(where), preset="imagenet")
    random, size = np.random.default_rng(0), backbone.image_size
    images = random.integers(0, 256, (12, *size, 3)).astype(np.uint8)
    model = vpjax.create_model(backbone, "vpt.VPT", num_tokens=3, num_classes=4, deep=deep)
    run = vpjax.fit(model, train=(images, np.arange(12) % 4), steps=4, lr=0.5, workdir=tmp_path)
    code = CODE.replace("runs/birds", str(tmp_path)).replace(BASE, f"local-dir:{where}")
    found = {}
    exec(compile(code, "docs/export.md", "exec"), found)
    x = torch.from_numpy(np.array(backbone.preprocess(images)).transpose(0, 3, 1, 2))
    with torch.no_grad():
        theirs = found["model"](x).numpy()
    ours = run.outputs(images)["logits"]
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    assert found["classes"] == ["0", "1", "2", "3"]
