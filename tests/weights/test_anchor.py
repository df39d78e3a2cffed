"""The backbone inside a file: any prefix, siblings, copies, and the part that a user asks for."""

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tests.helpers import cases
from tests.helpers.torch_files import write
from vpjax.backbones.resnet import ResNet
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.weights import google, resnet, swin, timm
from vpjax.weights.anchor import choose, is_part, left_out, split
from vpjax.weights.load import load, opened

FORMS = (google, timm, resnet, swin)
BLOCK, TOP = "blocks.0.attn.qkv.weight", "cls_token"


def names(*prefixes, beside=()):
    return [p + n for p in prefixes for n in (TOP, BLOCK)] + list(beside)


PREFIXES = ["", "module.", "_orig_mod.", "state_dict/", "state_dict/model.", "net.0.", "a/b/c."]
PREFIXES += ["image_encoder.trunk.", "module._orig_mod.visual.", "opt/target/", "1/module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_found(prefix):
    chosen = choose(names(prefix, beside=["epoch"]), FORMS)
    assert chosen.prefix == prefix and list(chosen.names.values())[:2] == [TOP, BLOCK]
    assert chosen.left_out == (() if not prefix else ("epoch",)) and not chosen.rivals
    assert str(chosen) == (f"took {prefix.rstrip('./')!r}" if prefix else "")


# What is taken, what is not.
COPIES = [
    ("state_dict_ema/", "state_dict/"),
    ("model_ema/", "model/"),
    ("teacher/backbone.", "student/backbone."),
    ("teacher.", "student."),
    ("target_encoder/module.", "encoder/module."),
    ("module.base_encoder.", "module.momentum_encoder."),
    ("module.encoder_q.", "module.encoder_k."),
    ("online_encoder.", "target_encoder."),
    ("params/", "opt/0/mu/"),
    ("opt/target/", "opt/state/param_states/"),
    ("encoder.", "decoder."),
    ("state_dict/ema_model.", "state_dict/model."),
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("taken", "other"), COPIES)
def test_one_of_two_copies_by_published_practice(taken, other, first):
    chosen = choose(names(*((taken, other) if first else (other, taken))), FORMS)
    assert (chosen.prefix, chosen.rivals) == (taken, (other,))
    assert f"took {taken.rstrip('./')!r}, not {other.rstrip('./')!r}" == str(chosen)
    asked = choose(names(taken, other), FORMS, other.rstrip("./"))
    assert asked.prefix == other


def test_where_nothing_decides_the_user_must():
    both = names("rgb_encoder.", "depth_encoder.")
    with pytest.raises(UserError, match=r"x.pth hold 2 backbones(?s:.*)x.pth#rgb_encoder\n"):
        choose(both, FORMS, where="x.pth")
    assert choose(both, FORMS, "depth_encoder").prefix == "depth_encoder."
    with pytest.raises(UserError, match=r"no part 'lidar'.*rgb_encoder, depth_encoder"):
        choose(both, FORMS, "lidar", "x.pth")


def test_a_network_inside_a_backbone_is_none_of_its_own():
    inside = [f"patch_embed.backbone.{n}" for n in ("layer1.0.conv1.weight", "conv1.weight")]
    assert (
        choose(names("module.", beside=[f"module.{n}" for n in inside]), FORMS).prefix == "module."
    )


def test_without_an_anchor_everything_is_taken_as_it_is():
    chosen = choose(["a.b", "c"], FORMS)
    assert chosen.names == {"a.b": "a.b", "c": "c"} and str(chosen) == ""
    assert choose(["head/w", "tail/w"], FORMS, "tail").names == {"tail/w": "w"}


def test_trees_beside_are_named_once():
    all_names = ["params/img/a", "params/img/b/c", "params/txt/d/e", "params/t", "opt/0/mu/a", "n"]
    assert left_out(all_names, "params/img/") == ("params/txt/", "params/t", "opt/", "n")


def test_parts_as_people_write_them():
    assert split("a/b.pth#teacher") == ("a/b.pth", "teacher") and split("x") == ("x", "")
    assert is_part("state_dict/module.", "state_dict") and is_part("teacher.", "teacher.")
    assert not is_part("teacher_head.", "teacher")


def tiny_resnet():
    made = nnx.eval_shape(lambda: ResNet("18", image_size=32, rngs=nnx.Rngs(1)))
    shapes = params.flatten(nnx.state(made)).items()
    return {n: np.full(v.shape, len(n), np.float32) for n, v in shapes}, made.grid


def torchvision(state):
    """A ResNet-18's arrays by torchvision's names, as far as the file's reader needs them."""
    out = {}
    for name, value in state.items():
        theirs = name.replace("patch_embed", "conv1").replace("patch_norm", "bn1")
        parts = theirs.split("/")
        if parts[0] == "layers":
            stage, block = divmod(int(parts[1]), 2)
            theirs = "/".join([f"layer{stage + 1}", str(block), *parts[2:]])
        theirs = theirs.replace("downsample/conv", "downsample/0").replace(
            "downsample/norm", "downsample/1"
        )
        theirs = theirs.replace("norm", "bn").replace("/", ".")
        for ours, leaf in (("kernel", "weight"), ("scale", "weight")):
            theirs = theirs.removesuffix(ours) + leaf if theirs.endswith(ours) else theirs
        for ours, leaf in ((".mean", ".running_mean"), (".var", ".running_var")):
            theirs = theirs.removesuffix(ours) + leaf if theirs.endswith(ours) else theirs
        out[theirs] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return out


def test_a_resnet_inside_a_detector_loads(tmp_path):
    prefix = "model.img_backbone."
    state, grid = tiny_resnet()
    arrays = {prefix + n: np.ascontiguousarray(v) for n, v in torchvision(state).items()}
    arrays |= {"neck.lateral_convs.0.conv.weight": np.ones((4, 4), np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "detector.safetensors")
    loaded = load(str(tmp_path / "detector.safetensors"), state, grid)
    for name, value in state.items():
        np.testing.assert_array_equal(loaded.values[name], value)
    assert "unused/neck.lateral_convs.0.conv.weight" in loaded.dropped
    assert loaded.chosen == f"took {prefix.rstrip('.')!r}"


@pytest.fixture
def vit():
    state = nnx.state(cases.tiny_vit(nnx.Rngs(3)))
    return {n: np.asarray(v) for n, v in params.flatten(state).items()}


def test_averaged_weights_and_the_others_of_one_torch_file(tmp_path, vit):
    plain = {google.google_name(n): v for n, v in vit.items()}
    averaged = {n: v + 1 for n, v in plain.items()}
    tree = {"state_dict": plain, "state_dict_ema": averaged, "epoch": 3}
    tree["optimizer"] = {"state": {0: {"exp_avg": plain["cls"]}}}
    path = write(tmp_path / "last.pth.tar", tree)
    ours = load(str(path), vit, (4, 4))
    np.testing.assert_array_equal(ours.values["cls_token"], vit["cls_token"] + 1)
    assert ours.chosen == "took 'state_dict_ema', not 'state_dict'"
    assert set(ours.dropped) == {"unused/state_dict/", "unused/optimizer/"}
    other = load(f"{path}#state_dict", vit, (4, 4))
    np.testing.assert_array_equal(other.values["cls_token"], vit["cls_token"])
    with pytest.raises(UserError, match="no part 'teacher'"):
        load(f"{path}#teacher", vit, (4, 4))


def test_training_state_of_big_vision(tmp_path, vit):
    saved = {google.google_name(n): v for n, v in vit.items()}
    arrays = {f"params/img/{n}": v for n, v in saved.items()} | {"params/t": np.ones(1)}
    arrays |= {f"opt/0/1/mu/img/{n}": v * 0 for n, v in saved.items()}
    arrays |= {"params/txt/Encoder_0/encoderblock_0/LayerNorm_0/scale": np.ones(4)}
    np.savez(tmp_path / "a.npz", **arrays)
    loaded = load(str(tmp_path / "a.npz"), vit, (4, 4))
    np.testing.assert_array_equal(loaded.values["cls_token"], vit["cls_token"])
    assert set(loaded.dropped) == {"unused/params/t", "unused/params/txt/", "unused/opt/"}


def test_a_file_before_it_is_interpreted(tmp_path, vit):
    arrays = {f"trunk.{n}": np.ones((2, 1), np.float32) for n in ("cls_token", BLOCK)}
    write(tmp_path / "a.pth", {"student": arrays, "teacher": arrays})
    (tmp_path / "config.json").write_text('{"architecture": "vit_x"}')
    where = str(tmp_path / "a.pth")
    file = opened(where, tmp_path / "a.pth")
    assert file.shapes == {"cls_token": (2, 1), BLOCK: (2, 1)}
    assert (file.stripped, file.library) == ("teacher/trunk.", "timm")
    assert opened(f"{where}#student", tmp_path / "a.pth").stripped == "student/trunk."
