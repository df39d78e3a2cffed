"""Files that the published code writes: every number has its place; what does not fit is said."""

from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from tests.golden import model as vpt_model
from tests.golden import msvp_model, sa2vp_model, vit
from tests.golden.record import Record
from tests.golden.runner import read
from tests.helpers import torch_files
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.models.partition import partition
from vpjax.weights import learnt

DATA = Path(__file__).parents[1] / "golden" / "data"


def recorded(name):
    """Returns a case's model, its arrays by their names, and by ours."""
    meta, arrays = (Record(found) for found in read(DATA / f"{name}.npz"))
    if name.startswith("sa2vp"):
        model = nnx.eval_shape(lambda: sa2vp_model.build(meta, 0.0))
        ours = sa2vp_model.gather(model, arrays, "param/")
    elif name.startswith("msvp"):
        model = msvp_model.build(meta)
        ours = msvp_model.gather(model, arrays, "param/")
    else:
        model = vpt_model.build(vit, meta, arrays)
        ours = vpt_model.gather(vit, model, arrays, "param/")
    theirs = {n.removeprefix("param/"): arrays[n] for n in arrays if n.startswith("param/")}
    return model, theirs, ours


def names(model):
    """Returns the names of a model's classes, as a config has them."""
    backbone = registry.name_of("backbones", type(model.backbone))
    method = type(model.method)
    method = method.__mro__[1] if "golden" in method.__module__ else method
    return registry.name_of("methods", method), backbone


def wanted(model):
    """Returns the shapes of what trains."""
    parts = partition(model)
    return {n: v.shape for n, v in (parts.trainable | parts.stats).items()}


WHOLE = {
    "sa2vp/vit_loop_g4": "model",
    "sa2vp/swin_dropmask": "model",
    "msvp/cnn_gated_g": "model_state_dict",
    "msvp/resnet18_concat_gm": "model_state_dict",
    "msvp/vit_add_full": "model_state_dict",
    "msvp/vit_baseline": "model_state_dict",
    "vpt/vit_deep": "model",
    "vpt/vit_shallow": "model",
}


@pytest.mark.parametrize(("name", "wrapper"), WHOLE.items())
def test_every_number_has_its_place(tmp_path, name, wrapper):
    model, theirs, ours = recorded(name)
    prefix = "module." if name.endswith("full") else ""  # as data parallel training writes them
    tree = {wrapper: {f"{prefix}{n}": v for n, v in theirs.items()}, "epoch": np.int64(3)}
    path = torch_files.write(tmp_path / "a.pth", tree)
    shapes = wanted(model)
    found = learnt.read(path, *names(model), shapes, 3)
    assert found.keys() == shapes.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value, ours[key], err_msg=key)


def vpt_file(path, shallow=(1, 4, 6), deep=(2, 4, 6)):
    draw = np.random.default_rng(0).standard_normal
    tree = {"shallow_prompt": draw(shallow).astype(np.float32)}
    if deep:
        tree["deep_prompt"] = draw(deep).astype(np.float32)
    return torch_files.write(path, tree), tree


PROMPTS = {f"method/prompts/{i}": (4, 6) for i in (0, 1, 2)}


@pytest.mark.parametrize("numpy", [False, True])
def test_prompts_of_every_epoch(tmp_path, numpy):
    path, tree = vpt_file(tmp_path / "prompt_ep3.pth")
    if numpy:
        torch_files.write(path, {n: (a,) for n, a in tree.items()})
    found = learnt.read(path, "vpt.VPT", "vit.ViT", PROMPTS | {"method/head/bias": (3,)}, 3)
    assert found.keys() == PROMPTS.keys()
    np.testing.assert_array_equal(found["method/prompts/0"], tree["shallow_prompt"][0])
    np.testing.assert_array_equal(found["method/prompts/2"], tree["deep_prompt"][1])
    found = learnt.read(path, "vpt.VPT", "vit.ViT", {"method/prompts/0": (4, 6)}, 3)
    assert found["method/prompts/more"].shape == (2, 4, 6)  # refused by its name
    path, _ = vpt_file(tmp_path / "b.pth", deep=None)
    assert learnt.read(path, "vpt.VPT", "vit.ViT", PROMPTS, 3).keys() == {"method/prompts/0"}


def test_offsets(tmp_path):
    offsets, text = np.ones((5, 2, 6), np.float32), np.ones((5, 6), np.float32)
    inside = {"prompt_offsets": offsets, "base_text_features": text}
    inside["clip.visual.conv1.weight"] = np.arange(96.0, dtype=np.float32).reshape(2, 3, 4, 4)
    path = torch_files.write(tmp_path / "best_epoch3.pt", {"epoch": 3, "model": inside})
    shapes = {"method/offsets": (8, 2, 6), learnt.TEXT: (8, 6), learnt.PATCHES: (4, 4, 3, 2)}
    found = learnt.read(path, "mop.MoP", "clip.CLIP", shapes, 5)
    assert {n: v.shape for n, v in found.items()} == shapes  # padded to the devices
    assert not found["method/offsets"][5:].any() and found["method/offsets"][:5].all()
    np.testing.assert_array_equal(found[learnt.PATCHES][1, 2, 0], [6, 54])
    assert len(learnt.read(path, "mop.MoP", "clip.CLIP", shapes, 6)["method/offsets"]) == 5


@pytest.mark.parametrize(
    ("method", "backbone", "message"),
    [
        ("sa2vp.SA2VP", "vit.ViT", "no file of the published SA2VP; a file of the published VPT"),
        ("mop.MoP", "clip.CLIP", "no file of the published MoP-CLIP; a file of the published VPT"),
        ("msvp.MSVP", "cnn.CNN", "no file of the published MS-VP"),
        ("finetune.Linear", "vit.ViT", "cannot begin a run of finetune.Linear"),
        ("finetune.Full", "cnn.CNN", "no file of the published MS-VP"),
    ],
)
def test_files_of_others(tmp_path, method, backbone, message):
    path, _ = vpt_file(tmp_path / "a.pth")
    with pytest.raises(UserError, match=message):
        learnt.read(path, method, backbone, PROMPTS, 3)


def test_files_of_nobody(tmp_path):
    path = torch_files.write(tmp_path / "a.pth", {"x": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"no file of the published VPT; it holds \['x'\]"):
        learnt.read(path, "vpt.VPT", "vit.ViT", PROMPTS, 3)
    with pytest.raises(UserError, match="no file .*nowhere.pth"):
        learnt.read(tmp_path / "nowhere.pth", "vpt.VPT", "vit.ViT", PROMPTS, 3)


@pytest.mark.parametrize(
    ("method", "inside"),
    [
        ("vpt.VPT", {"shallow_prompt": (1, 4, 6), "deep_prompt": ()}),
        ("sa2vp.SA2VP", {"embeddings.ppt": (), "embeddings.ppt_proj.weight": (2, 2)}),
        ("sa2vp.SA2VP", {"encoder.deep_ppt": (3,), "embeddings.ppt_proj.weight": (2, 2)}),
        ("mop.MoP", {"prompt_offsets": ()}),
    ],
)
def test_arrays_of_other_shapes(tmp_path, method, inside):
    np.savez(tmp_path / "a.npz", **{n: np.zeros(s, np.float32) for n, s in inside.items()})
    shapes = PROMPTS | {"method/offsets": (3, 2, 4), "method/deep/0/prompt/map": (1, 2)}
    with pytest.raises(UserError, match=r"a\.npz .* cannot be read"):
        learnt.read(tmp_path / "a.npz", method, "vit.ViT", shapes, 3)


def test_what_is_a_file(tmp_path):
    assert learnt.is_file("nowhere/prompt_ep3.PTH") and learnt.is_file("~/best_epoch3.pt")
    assert not learnt.is_file(str(tmp_path)) and not learnt.is_file("runs/first#best")
