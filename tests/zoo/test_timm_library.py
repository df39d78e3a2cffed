"""Every ViT of the installed timm: our options are its attributes, our shapes its state dict's."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from tests.zoo.loading import DATA
from vpjax.backbones.vit import ViT
from vpjax.core import params
from vpjax.weights import timm as form
from vpjax.weights.description import WeightsFile

pytestmark = [pytest.mark.zoo, pytest.mark.slow]
ARCHITECTURES = json.loads((DATA / "timm_architectures.json").read_text())
KNOWN = sorted(n for n, truth in ARCHITECTURES.items() if isinstance(truth, dict))
USUAL = dict(ViT.usual) | {"prefix_positions": None, "rope_grid": None, "pool": "token"}


def listed(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", KNOWN)
def test_one_layer_of_every_architecture(name):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("timm")
    from tests.zoo.timm_truth import options

    with torch.device("meta"):
        model = library.create_model(name, num_classes=7, depth=1)
    truth, size = options(model), model.patch_embed.img_size
    assert truth == ARCHITECTURES[name] | {"depth": 1}
    shapes = {n: tuple(v.shape) for n, v in model.state_dict().items()}
    config = {"architecture": name, "pretrained_cfg": {"input_size": [3, *size]}}
    found = form.describe(WeightsFile(name, Path(name), shapes, library="timm", config=config))
    given = found.options | {"image_size": size}
    ours = {k: listed(v) for k, v in given.items() if k == "image_size" or USUAL.get(k, v) != v}
    ours |= {k: listed(v) for k, v in given.items() if k not in USUAL}
    assert {k: v for k, v in ours.items() if v is not None} == truth
    body = nnx.eval_shape(lambda: ViT(**found.options, rngs=nnx.Rngs(0)))
    expected = params.flatten(nnx.state(body))
    arrays = {n: np.broadcast_to(np.float32(0), s) for n, s in shapes.items()}
    values = form.translate(arrays, expected)
    left = {n: v.shape for n, v in values.items() if not n.startswith(("head/", "unused/"))}
    assert left == {n: v.shape for n, v in expected.items()}
