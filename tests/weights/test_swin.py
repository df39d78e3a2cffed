"""Swin's released files and timm's, into ours: written in their spelling, read back."""

import functools

import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.swin import Swin
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.weights import swin
from vpjax.weights.load import load

PROJECTIONS = ("query", "key", "value")


@functools.cache
def shapes(**options):
    """Expected names of three stages: 0-1, merging 2, 3-5, merging 6, 7."""
    options = {"window": 2, "depths": (2, 3, 1), "heads": (1, 2, 2)} | options
    make = lambda: Swin("T", 32, embed_dim=4, rngs=nnx.Rngs(0), **options)  # noqa: E731
    return params.flatten(nnx.state(nnx.eval_shape(make)))


@functools.cache
def values():
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(v.shape).astype(np.float32) for n, v in shapes().items()}


def linear(kernel, inputs=1):
    """A torch weight (out, in)."""
    return kernel.reshape(np.prod(kernel.shape[:inputs]), -1).T


def block(layer):
    """One block in torch's names."""
    v = {n.removeprefix(f"layers/{layer}/"): a for n, a in values().items()}
    out = {"attn.relative_position_bias_table": v["attn/relative_position_bias_table"]}
    out["attn.relative_position_index"] = np.zeros((4, 4), np.int64)
    out["attn.qkv.weight"] = np.concatenate([linear(v[f"attn/{p}/kernel"]) for p in PROJECTIONS])
    out["attn.qkv.bias"] = np.concatenate([v[f"attn/{p}/bias"].ravel() for p in PROJECTIONS])
    out["attn.proj.weight"] = linear(v["attn/out/kernel"], inputs=2)
    out["attn.proj.bias"] = v["attn/out/bias"]
    for i in "12":
        out[f"norm{i}.weight"], out[f"norm{i}.bias"] = v[f"norm{i}/scale"], v[f"norm{i}/bias"]
        out[f"mlp.fc{i}.weight"] = v[f"mlp/fc{i}/kernel"].T
        out[f"mlp.fc{i}.bias"] = v[f"mlp/fc{i}/bias"]
    return out


def released(timm=False):
    """The model's arrays as the published file, or timm's, would hold them."""
    v = values()
    out = {
        "patch_embed.proj.weight": v["patch_embed/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": v["patch_embed/bias"],
        "patch_embed.norm.weight": v["patch_norm/scale"],
        "patch_embed.norm.bias": v["patch_norm/bias"],
        "norm.weight": v["norm/scale"],
        "norm.bias": v["norm/bias"],
    }
    for stage, layers in enumerate([(0, 1), (3, 4, 5), (7,)]):
        for i, layer in enumerate(layers):
            parts = block(layer)
            out |= {f"layers.{stage}.blocks.{i}.{n}": a for n, a in parts.items()}
        if len(layers) > 1:
            out[f"layers.{stage}.blocks.1.attn_mask"] = np.zeros((16, 4, 4))
    for stage, layer in enumerate((2, 6)):
        front = f"layers.{stage + timm}.downsample"
        out[f"{front}.norm.weight"] = v[f"layers/{layer}/norm/scale"]
        out[f"{front}.norm.bias"] = v[f"layers/{layer}/norm/bias"]
        out[f"{front}.reduction.weight"] = v[f"layers/{layer}/reduction/kernel"].T
    head = "head.fc" if timm else "head"
    return out | {f"{head}.weight": np.arange(14.0).reshape(7, 2), f"{head}.bias": np.ones(7)}


def read_back(arrays, tmp_path, head="new", expected=None):
    np.savez(tmp_path / "swin.npz", **arrays)
    return load(str(tmp_path / "swin.npz"), expected or shapes(), (8, 8), head)


@pytest.mark.parametrize("timm", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_spellings_load(tmp_path, timm, prefix):
    arrays = {prefix + n: a for n, a in released(timm).items()}
    loaded = read_back(arrays, tmp_path, head="load")
    assert loaded.values.keys() == shapes().keys()
    for name, value in values().items():
        np.testing.assert_array_equal(loaded.values[name], value, err_msg=name)
    np.testing.assert_array_equal(loaded.head["kernel"], np.arange(14).reshape(7, 2).T)
    np.testing.assert_array_equal(loaded.head["bias"], np.ones(7))
    buffers = ("relative_position_index", "attn_mask")
    assert all(n.endswith(buffers) and n.startswith("unused/") for n in loaded.dropped)
    assert len(loaded.dropped) == 6 + 2


@pytest.mark.parametrize("prefix", ["encoder.", "module.encoder."])
def test_a_self_supervised_file_gives_its_encoder(tmp_path, prefix):
    others = {"encoder_k.norm.weight": np.zeros(3), "projector.linear1.weight": np.zeros((2, 2))}
    body = {prefix + n: a for n, a in released().items() if not n.startswith("head")}
    loaded = read_back(body | others, tmp_path)
    for name, value in values().items():
        np.testing.assert_array_equal(loaded.values[name], value, err_msg=name)
    assert {f"unused/{n}" for n in others} <= set(loaded.dropped)


def test_everything_else_is_strict(tmp_path):
    arrays = released()
    del arrays["layers.1.downsample.norm.bias"]
    arrays["layers.0.blocks.0.gamma"] = np.ones(4)
    arrays["absolute_pos_embed"] = np.ones((1, 64, 4))
    with pytest.raises(UserError) as error:
        read_back(arrays, tmp_path)
    text = str(error.value)
    assert "missing (1):\n    layers/6/norm/bias" in text
    assert "unexpected (2):\n    layers/0/gamma" in text and "\n    positions" in text


def test_a_file_of_another_depth_or_width_is_reported(tmp_path):
    with pytest.raises(UserError, match="missing .*\n    layers/8/"):
        read_back(released(), tmp_path, expected=shapes(depths=(2, 3, 2)))
    wider = shapes() | {"norm/scale": np.zeros(32)}
    with pytest.raises(UserError, match=r"norm/scale: file \(16,\), model \(32,\)"):
        read_back(released(), tmp_path, expected=wider)


def test_tables_of_other_windows_name_the_sizes(tmp_path):
    with pytest.raises(UserError, match="windows are 2x2, the model's 1x1"):
        read_back(released(), tmp_path, expected=shapes(window=1))


def test_only_swin_is_recognised():
    assert swin.recognises(released().keys())
    assert swin.recognises([f"module.encoder.{n}" for n in released()])
    assert not swin.recognises(["blocks.0.attn.qkv.weight", "pos_embed"])
    # BEiT has tables too.
    assert not swin.recognises(["blocks.0.attn.relative_position_bias_table"])
