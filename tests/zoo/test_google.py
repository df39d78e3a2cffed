"""npz files of big_vision and vision_transformer: against their formulas, and SigLIP across names.

There is no package of big_vision, so its model is written down here once more, in numpy and in the
names of its files: Zhai et al. 2022, "Scaling Vision Transformers", arXiv 2106.04560, for attention
pooling; Beyer et al. 2022, arXiv 2205.01580, for the mean and the fixed positions.
"""

import math

import numpy as np
import pytest

from tests.zoo.loading import (
    DATA,
    TOLERANCE,
    backbone_of,
    described,
    difference,
    features_of,
    recorded,
)
from vpjax.core.errors import UserError
from vpjax.weights import google

DIM, HEADS, DEPTH, EDGE, PATCH, MLP = 16, 2, 2, 4, 4, 24
IMAGES = np.random.default_rng(5).standard_normal((2, EDGE * PATCH, EDGE * PATCH, 3))
LAYER = "Transformer/encoderblock_{}/"
ATTENTION, MLP_BLOCK = "MultiHeadDotProductAttention_0/", "MlpBlock_0/"


def file_of(pool, positions="learn", head=0):
    """Return the arrays of a file: random, each about as large as in a trained one."""
    rng = np.random.default_rng(len(pool) + head)
    shapes = {"embedding/kernel": (PATCH, PATCH, 3, DIM), "embedding/bias": (DIM,)}
    for place in [LAYER.format(i) for i in range(DEPTH)] + ["MAPHead_0/"] * (pool == "map"):
        for n in ("query", "key", "value"):
            shapes[f"{place}{ATTENTION}{n}/kernel"] = (DIM, HEADS, DIM // HEADS)
            shapes[f"{place}{ATTENTION}{n}/bias"] = (HEADS, DIM // HEADS)
        shapes[f"{place}{ATTENTION}out/kernel"] = (HEADS, DIM // HEADS, DIM)
        shapes[f"{place}{ATTENTION}out/bias"] = (DIM,)
        for n, (wide_in, wide_out) in enumerate(((DIM, MLP), (MLP, DIM))):
            shapes[f"{place}{MLP_BLOCK}Dense_{n}/kernel"] = (wide_in, wide_out)
            shapes[f"{place}{MLP_BLOCK}Dense_{n}/bias"] = (wide_out,)
        for n in range(1 if place == "MAPHead_0/" else 2):
            shapes |= {f"{place}LayerNorm_{n}/{kind}": (DIM,) for kind in ("scale", "bias")}
    shapes |= {f"Transformer/encoder_norm/{kind}": (DIM,) for kind in ("scale", "bias")}
    shapes |= {"pos_embedding": (1, EDGE**2, DIM)} if positions == "learn" else {}
    shapes |= {"cls": (1, 1, DIM)} if pool == "tok" else {}
    shapes |= {"MAPHead_0/probe": (1, 1, DIM)} if pool == "map" else {}
    shapes |= {"head/kernel": (DIM, head), "head/bias": (head,)} if head else {}
    draw = lambda n, s: rng.standard_normal(s) * (DIM**-0.5 if "kernel" in n else 0.5)  # noqa: E731
    return {n: (draw(n, s) + n.endswith("scale")).astype(np.float32) for n, s in shapes.items()}


def reference(p, images, pool):
    """Return features of images, in float64."""
    p = {n: v.astype(np.float64) for n, v in p.items()}

    def norm(x, place):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * p[f"{place}/scale"] + p[f"{place}/bias"]

    def attend(queries, x, place):
        q, k, v = (
            np.einsum("bld,dnh->bnlh", y, p[f"{place}{n}/kernel"]) + p[f"{place}{n}/bias"][:, None]
            for y, n in ((queries, "query"), (x, "key"), (x, "value"))
        )
        scores = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        return np.einsum("bnlh,nhd->bld", mixed, p[f"{place}out/kernel"]) + p[f"{place}out/bias"]

    def mlp(x, place):
        h = x @ p[f"{place}Dense_0/kernel"] + p[f"{place}Dense_0/bias"]
        h = h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return h @ p[f"{place}Dense_1/kernel"] + p[f"{place}Dense_1/bias"]

    cells = images.reshape(len(images), EDGE, PATCH, EDGE, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    cells = cells.reshape(len(images), EDGE**2, -1)
    x = cells @ p["embedding/kernel"].reshape(-1, DIM) + p["embedding/bias"]
    x = x + p.get("pos_embedding", fixed())
    if pool == "tok":
        x = np.concatenate([np.repeat(p["cls"], len(x), 0), x], axis=1)
    for layer in map(LAYER.format, range(DEPTH)):
        y = norm(x, f"{layer}LayerNorm_0")
        x = x + attend(y, y, layer + ATTENTION)
        x = x + mlp(norm(x, f"{layer}LayerNorm_1"), layer + MLP_BLOCK)
    x = norm(x, "Transformer/encoder_norm")
    if pool != "map":
        return x.mean(1) if pool == "gap" else x[:, 0]
    probe = np.repeat(p["MAPHead_0/probe"], len(x), 0)
    x = attend(probe, x, f"MAPHead_0/{ATTENTION}")
    return (x + mlp(norm(x, "MAPHead_0/LayerNorm_0"), f"MAPHead_0/{MLP_BLOCK}"))[:, 0]


def fixed():
    """Return sines and cosines of columns, then of rows, cell by cell."""
    omega = [10000 ** -(j / (DIM // 4 - 1)) for j in range(DIM // 4)]
    return np.array(
        [
            [f(place * w) for place in (x, y) for f in (math.sin, math.cos) for w in omega]
            for y in range(EDGE)
            for x in range(EDGE)
        ]
    )


def stacked(arrays):
    """Return the arrays with one for all layers."""
    own = {n: v for n, v in arrays.items() if "encoderblock" not in n}
    parts = [n.removeprefix(LAYER.format(0)) for n in arrays if n.startswith(LAYER.format(0))]
    for part in parts:
        layers = [arrays[LAYER.format(i) + part] for i in range(DEPTH)]
        own[f"Transformer/encoderblock/{part}"] = np.stack(layers)
    return own


def written(tmp_path, arrays, prefix="params/"):
    np.savez(tmp_path / "a.npz", **{prefix + n: v for n, v in arrays.items()})
    return tmp_path / "a.npz"


@pytest.mark.parametrize(
    ("pool", "positions", "form"),
    [
        ("tok", "learn", "layers"),
        ("gap", "learn", "stacked"),
        ("gap", "sincos2d", "layers"),
        ("map", "learn", "stacked"),
        ("map", "sincos2d", "stacked"),
    ],
)
def test_big_vision_s_model(tmp_path, pool, positions, form):
    arrays = file_of(pool, positions, head=3)
    path = written(tmp_path, stacked(arrays) if form == "stacked" else arrays)
    found = described(path)
    assert found.kind == "a Google ViT (big_vision)" and found.options["heads"] == HEADS
    assert found.open == (() if positions == "learn" else ("image_size",))
    backbone, loaded = backbone_of(path, "load", image_size=EDGE * PATCH)
    expected = reference(arrays, IMAGES, pool)
    assert difference(features_of(backbone, IMAGES.astype(np.float32)), expected) < TOLERANCE
    np.testing.assert_array_equal(loaded.head["kernel"], arrays["head/kernel"])


def test_siglip_is_the_same_in_both_names():
    case = recorded("transformers_siglip")
    path = DATA / "big_vision_siglip" / "model.npz"
    found = described(path)
    assert found.options["pool"] == "map" and found.options["activation"] == "gelu_tanh"
    features = features_of(backbone_of(path)[0], case["images"])
    assert difference(features, case["features"]) < TOLERANCE
    assert difference(features, recorded("big_vision_siglip")["features"]) < TOLERANCE  # timm's


def test_vision_transformer_s_files_are_read_with_the_exact_gelu(tmp_path):
    arrays = file_of("tok", head=3)
    own = np.concatenate([np.zeros((1, 1, DIM), np.float32), arrays.pop("pos_embedding")], axis=1)
    arrays["Transformer/posembed_input/pos_embedding"] = own
    arrays |= {"pre_logits/kernel": np.eye(DIM), "pre_logits/bias": np.zeros(DIM)}
    path = written(tmp_path, arrays, "")
    found = described(path)
    assert found.kind == "a Google ViT (vision_transformer)" and not found.open
    assert found.options["activation"] == "gelu" and found.options["prefix_positions"] == 1
    assert found.options["image_size"] == EDGE * PATCH and found.resample == "align_corners"
    with pytest.raises(UserError, match="Set backbone.pre_logits=True, or head='new'"):
        backbone_of(path, "load")
    _, loaded = backbone_of(path, "load", pre_logits=True)
    np.testing.assert_array_equal(loaded.values["pre_logits/kernel"], np.eye(DIM))
    np.testing.assert_array_equal(loaded.head["bias"], arrays["head/bias"])


def test_a_resnet_before_the_layers_is_another_format():
    names = file_of("tok")
    assert google.recognises(names)
    assert not google.recognises([*names, "conv_root/kernel"])
    assert not google.recognises(["MixerBlock_0/LayerNorm_0/scale"])


def test_what_is_no_such_vit_is_refused(tmp_path):
    arrays = file_of("gap", "sincos2d")
    path = written(tmp_path, arrays)
    with pytest.raises(UserError, match="sines and cosines of a square grid"):
        backbone_of(path, image_size=(EDGE * PATCH, 2 * PATCH))
    arrays["embedding/kernel"] = arrays["embedding/kernel"].reshape(-1, DIM)
    with pytest.raises(UserError, match="images of any shape"):
        described(written(tmp_path, arrays))
    del arrays["embedding/kernel"]
    with pytest.raises(UserError, match="a Google ViT, but have no patch_embed/kernel"):
        described(written(tmp_path, arrays))
