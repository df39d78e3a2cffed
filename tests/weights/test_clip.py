"""CLIP's files into both towers: three ways of writing, one result; strictly."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx, serialization

from tests.helpers import clip as files
from tests.helpers import torch_files
from vpjax.backbones.clip import CLIP
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.models.text.pretrained import load_text
from vpjax.weights import clip, clip_transformers, convnext, google, hub, resnet, swin, timm
from vpjax.weights.clip_config import (
    ClipConfig,
    look,
    read_clip_config,
    text_of,
    vision_of,
)
from vpjax.weights.formats import read
from vpjax.weights.load import load


def shapes(where):
    options = read_clip_config(where).vision
    backbone = nnx.eval_shape(lambda: CLIP(**options, rngs=nnx.Rngs(0)))
    return params.flatten(nnx.state(backbone)), backbone.grid


def vision(where):
    expected, grid = shapes(where)
    return load(where, expected, grid)


def written(tmp_path, arrays):
    """Writes weights of some arrays beside a config.json."""
    return files.folder(tmp_path / "model", arrays)


def test_every_number_of_the_vision_tower_has_its_place(tmp_path):
    arrays = files.hub()
    found = vision(written(tmp_path, arrays))
    ours, theirs = found.values, lambda n: arrays[f"vision_model.{n}"]
    block = "encoder.layers.1"
    x = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)  # tokens
    for name, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        kernel, bias = (ours[f"layers/1/attn/{name}/{n}"] for n in ("kernel", "bias"))
        assert kernel.shape == (16, 4, 4)
        weight = theirs(f"{block}.self_attn.{letter}_proj.weight")
        expected = x @ weight.T + theirs(f"{block}.self_attn.{letter}_proj.bias")
        mine = np.einsum("ti,ihd->thd", x, kernel) + bias
        np.testing.assert_allclose(mine.reshape(5, -1), expected, atol=1e-5, err_msg=name)
    mine = np.einsum("thd,hdo->to", x.reshape(5, 4, 4), ours["layers/1/attn/out/kernel"])
    expected = x @ theirs(f"{block}.self_attn.out_proj.weight").T
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    same = np.testing.assert_array_equal
    same(ours["layers/1/mlp/fc2/kernel"], theirs(f"{block}.mlp.fc2.weight").T)
    same(ours["layers/0/norm2/scale"], theirs("encoder.layers.0.layer_norm2.weight"))
    same(ours["pre_norm/bias"], theirs("pre_layrnorm.bias"))
    same(ours["norm/scale"], theirs("post_layernorm.weight"))
    same(ours["cls_token"][0], theirs("embeddings.class_embedding"))
    same(ours["pos_embed"], theirs("embeddings.position_embedding.weight"))
    conv = theirs("embeddings.patch_embedding.weight")
    same(ours["patch_embed/kernel"][1, 2, 0], conv[:, 0, 1, 2])
    same(ours["projection/kernel"], arrays["visual_projection.weight"].T)
    assert found.resized == "" and "unused/text_projection.weight" in found.dropped


def test_every_number_of_the_text_tower_has_its_place(tmp_path):
    arrays = files.hub()
    found = load_text(written(tmp_path, arrays))
    ours = params.flatten(nnx.state(found.tower))
    same = np.testing.assert_array_equal
    same(ours["token_embed"], arrays["text_model.embeddings.token_embedding.weight"])
    same(ours["pos_embed"], arrays["text_model.embeddings.position_embedding.weight"])
    same(ours["norm/scale"], arrays["text_model.final_layer_norm.weight"])
    same(ours["projection/kernel"], arrays["text_projection.weight"].T)
    key = arrays["text_model.encoder.layers.2.self_attn.k_proj.weight"]
    same(ours["layers/2/attn/key/kernel"].reshape(8, 8), key.T)
    np.testing.assert_allclose(found.scale, np.exp(arrays["logit_scale"]), rtol=1e-6)
    assert len(found.sha256) == 64 and found.path.name == "model.safetensors"


def flat(tree):
    return {"/".join(p.key for p in path): v for path, v in jax.tree.leaves_with_path(tree)}


WRITTEN = {
    "openai": files.openai,
    "flax": lambda: flat(files.flax()),
    "flax with params": lambda: flat({"params": files.flax()}),
    "with position ids": lambda: (
        files.hub()
        | {
            f"{side}_model.embeddings.position_ids": np.arange(9)[None]
            for side in ("text", "vision")
        }
    ),
}


def test_openais_own_file(tmp_path):
    """A TorchScript archive in half precision."""
    arrays = files.openai()
    expected = vision(files.folder(tmp_path / "a", arrays)).values
    halves = {n: a.astype(np.float16) if np.ndim(a) else a for n, a in arrays.items()}
    halves["transformer.resblocks.0.attn_mask"] = np.zeros((9, 9), np.float32)
    where = Path(files.folder(tmp_path / "b"))
    (where / "model.safetensors").unlink()
    path = torch_files.write(where / "ViT-B-16.pt", halves, program=True)
    found = vision(str(path)).values
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4)
    text = load_text(str(path)).tower
    np.testing.assert_allclose(text.pos_embed[...], arrays["positional_embedding"], rtol=1e-3)


@pytest.mark.parametrize("arrays", WRITTEN.values(), ids=WRITTEN.keys())
def test_every_way_of_writing_gives_the_same(tmp_path, arrays):
    one, two = files.folder(tmp_path / "one"), files.folder(tmp_path / "two", arrays())
    ours, theirs = vision(one), vision(two)
    for name, value in ours.values.items():
        np.testing.assert_array_equal(value, theirs.values[name], err_msg=name)
    ours, theirs = load_text(one), load_text(two)
    assert ours.scale == theirs.scale and ours.sha256 != theirs.sha256
    theirs = params.flatten(nnx.state(theirs.tower))
    for name, value in params.flatten(nnx.state(ours.tower)).items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_half_precision_is_widened(tmp_path):
    half = {n: a.astype(ml_dtypes.bfloat16) for n, a in files.hub().items()}
    where = written(tmp_path, None)
    safetensors.numpy.save_file(half, tmp_path / "model" / "model.safetensors")
    found = vision(where).values["norm/bias"]
    assert found.dtype == np.float32
    expected = half["vision_model.post_layernorm.bias"].astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_flax_files_are_read_and_damage_is_noticed(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    content = serialization.msgpack_serialize(files.flax())
    path.write_bytes(content)
    found = read(path)
    expected = flat(files.flax())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        read(path)


def test_one_tower_is_enough(tmp_path):
    arrays = files.hub()
    image = {n: a for n, a in arrays.items() if n.startswith("vis")}
    text = {n: a for n, a in arrays.items() if n.startswith("text")}
    assert vision(written(tmp_path, image)).dropped == ()
    with pytest.raises(UserError, match="hold no text tower"):
        load_text(str(tmp_path / "model"))
    assert load_text(written(tmp_path, text)).scale is None
    with pytest.raises(UserError, match=r"missing \(\d+\):\s+cls_token"):
        vision(str(tmp_path / "model"))
    (tmp_path / "model" / "config.json").unlink()
    path = tmp_path / "model" / "model.safetensors"
    assert read_clip_config(str(path)).vision == {}
    with pytest.raises(UserError, match="a CLIP's text encoder without an image encoder"):
        CLIP.complete({}, str(path))
    with open(path, "wb") as stream:
        np.savez(stream, **image)
    with pytest.raises(UserError, match="hold no text tower"):
        load_text(str(path))
    assert load_text(files.folder(tmp_path / "whole"), depth=3).tower.dim == 6
    broken = {n: v for n, v in image.items() if "fc1" not in n}
    with open(path, "wb") as stream:
        np.savez(stream, **broken)
    with pytest.raises(UserError, match="are of a CLIP, but have no .*layers.0.mlp.fc1.weight"):
        read_clip_config(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_model.post_layernorm.bias": None}, r"missing \(1\):\s+norm/bias"),
        ({"text_model.novelty.weight": 1}, r"unexpected \(1\):\s+text_model.novelty.weight"),
        ({"visual_projection.weight": np.ones((7, 16))}, r"projection/kernel: file \(16, 7\)"),
        (
            {"vision_model.encoder.layers.0.self_attn.q_proj.bias": np.ones(9)},
            r"query/bias: file \(9,\), model \(4, 4\)",
        ),
        ({"vision_model.encoder.layers.0.self_attn.rope": 1}, "unexpected.*\n.*self_attn.rope"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, changes, message):
    arrays = files.hub() | {n: np.float32(a) for n, a in changes.items() if a is not None}
    arrays = {n: a for n, a in arrays.items() if n not in changes or changes[n] is not None}
    with pytest.raises(UserError, match=message):
        vision(written(tmp_path, arrays))


def test_only_clips_are_recognised():
    for arrays in (files.hub(), files.openai(), flat(files.flax())):
        assert clip.recognises(arrays)
        for other in (google, timm, swin, convnext, resnet):
            assert not other.recognises(arrays)
    assert not clip.recognises(["blocks.0.attn.qkv.weight", "cls_token", "logit_scale"])


# Sizes


def test_config_json_and_shapes_agree(tmp_path):
    described = read_clip_config(files.folder(tmp_path / "a"))
    (tmp_path / "a" / "config.json").unlink()
    file = look(str(tmp_path / "a" / "model.safetensors"))
    vision, text = vision_of(file), text_of(file)
    assert vision.open == text.open == ("heads", "activation")
    shown = {"pre_norm": True, "layer_scale": False, "channels": 3}
    unseen = {"activation": "quick_gelu", "heads": 4}
    assert described.vision | shown == vision.options | unseen
    assert described.text | {"layer_scale": False} == text.options | unseen | {"heads": 2}


def test_without_a_configuration_the_text_tower_asks_for_one(tmp_path):
    where = files.folder(tmp_path / "a")
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(UserError, match="nothing says heads and activation.*open_clip_config.json"):
        load_text(where)
    with pytest.raises(UserError, match="nothing says activation of"):
        load_text(where, heads=2)
    assert load_text(where, heads=2, activation="gelu").tower.layers[0].mlp.activation == "gelu"


def described(tmp_path, **changes):
    options = (
        clip_transformers.options(files.config(**changes), tower, True, tmp_path)
        for tower in ("vision", "text")
    )
    return ClipConfig(*options)


def test_old_configs_keep_sizes_elsewhere(tmp_path):
    new = described(tmp_path)
    old = {f"{t}_config_dict": files.config()[f"{t}_config"] for t in ("text", "vision")}
    assert described(tmp_path, **old, vision_config={}, text_config=None) == new
    assert described(tmp_path, text_config_dict=None) == new
    other = described(tmp_path, text_config_dict={"num_attention_heads": 4})
    assert (new.text["heads"], other.text["heads"]) == (2, 4)


def test_what_a_config_leaves_out_is_b32(tmp_path):
    found = described(tmp_path, vision_config={"hidden_act": "gelu"}, text_config={})
    b32 = {"dim": 768, "mlp_dim": 3072, "heads": 12, "depth": 12, "eps": 1e-5}
    b32 |= {"activation": "gelu", "image_size": 224, "patch_size": 32, "joint_dim": 6}
    assert found.vision == b32
    assert (found.text["dim"], found.text["vocab"], found.text["context"]) == (512, 49408, 77)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is damaged"),
        ('{"model_type": "bert"}', "describes no CLIP .model_type 'bert'."),
        ('{"model_type": "siglip", "text_config": {}}', "describes no CLIP .model_type 'siglip'."),
        ("[]", "config.json is damaged: its content is list, expected an object"),
    ],
)
def test_other_configs_are_refused(tmp_path, text, message):
    where = files.folder(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_clip_config(where)


def test_other_weights_are_no_clip(tmp_path):
    np.savez(tmp_path / "a.npz", **{"blocks.0.attn.qkv.weight": np.ones(3)})
    with pytest.raises(UserError, match="are no CLIP; names look like blocks.0.attn.qkv.weight"):
        read_clip_config(str(tmp_path / "a.npz"))


# Folders and names of the hub


def test_a_folder_stands_for_its_file(tmp_path):
    with pytest.raises(UserError, match="is a folder without weights; it holds: nothing"):
        load(str(tmp_path), *shapes(files.folder(tmp_path / "model")))
    for name in ("pytorch_model.bin", "flax_model.msgpack", "model.safetensors"):
        (tmp_path / name).touch()
        assert hub.weights_in(str(tmp_path)) == str(tmp_path / name)
    assert hub.weights_in("vit_b16_in21k") == "vit_b16_in21k"
    assert hub.weights_in("https://host/a/model.npz") == "https://host/a/model.npz"
    assert hub.weights_in("nowhere/model.npz") == "nowhere/model.npz"


def test_a_name_of_the_hub_is_looked_up_in_its_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hf download openai/clip-tiny"):
        read_clip_config("openai/clip-tiny")
    model = tmp_path / "models--openai--clip-tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots").mkdir()
    files.folder(model / "snapshots" / "abc")
    assert read_clip_config("openai/clip-tiny").vision["dim"] == 16
    assert vision("openai/clip-tiny").path.name == "model.safetensors"
