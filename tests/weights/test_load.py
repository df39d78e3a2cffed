"""Google's npz files into a ViT: both spellings, strictly, positions resized by the rule."""

import numpy as np
import pytest
import scipy.ndimage
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import cases
from vpjax.backbones.vit import ViT
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.weights import google
from vpjax.weights.load import load
from vpjax.weights.resample import resize_grid


@pytest.fixture
def vit():
    state = nnx.state(cases.tiny_vit(nnx.Rngs(3)))
    return {n: np.asarray(v) for n, v in params.flatten(state).items()}


def written(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def test_what_is_saved_is_loaded(tmp_path, vit):
    google.save(tmp_path / "a.npz", vit)
    loaded = load(str(tmp_path / "a.npz"), vit, (4, 4))
    assert loaded.values.keys() == vit.keys()
    for name, value in vit.items():
        np.testing.assert_array_equal(loaded.values[name], value)
    assert (loaded.resized, loaded.dropped, loaded.head) == ("", (), {})
    assert len(loaded.sha256) == 64


def test_the_file_has_google_s_names_and_shapes(tmp_path, vit):
    google.save(tmp_path / "a.npz", vit)
    with np.load(tmp_path / "a.npz") as file:
        shapes = {n: file[n].shape for n in file.files}
    block = "Transformer/encoderblock_1"
    assert shapes["cls"] == (1, 1, 16)
    assert shapes["embedding/kernel"] == (4, 4, 3, 16)
    assert shapes["Transformer/posembed_input/pos_embedding"] == (1, 17, 16)
    assert shapes[f"{block}/MultiHeadDotProductAttention_1/query/kernel"] == (16, 2, 8)
    assert shapes[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] == (2, 8, 16)
    assert shapes[f"{block}/LayerNorm_2/scale"] == (16,)
    assert shapes[f"{block}/MlpBlock_3/Dense_0/kernel"] == (16, 24)


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
def test_the_other_spelling(tmp_path, vit, prefix):
    arrays = {}
    for name, value in vit.items():
        theirs = google.google_name(name)
        theirs = theirs.replace("LayerNorm_2", "LayerNorm_1").replace("MlpBlock_3", "MlpBlock_0")
        theirs = theirs.replace("Attention_1", "Attention_0")
        theirs = theirs.replace("Transformer/posembed_input/pos_embedding", "pos_embedding")
        arrays[prefix + theirs] = value[None] if name in ("cls_token", "pos_embed") else value
    loaded = load(written(tmp_path / "a.npz", arrays), vit, (4, 4))
    for name, value in vit.items():
        np.testing.assert_array_equal(loaded.values[name], value)


def test_head_and_pre_logits_are_left_out_by_name(tmp_path, vit):
    extra = {"head/kernel": np.ones((16, 7)), "head/bias": np.ones(7)}
    extra |= {"pre_logits/kernel": np.ones((16, 16)), "pre_logits/bias": np.ones(16)}
    path = tmp_path / "a.npz"
    google.save(path, vit | extra)
    assert set(load(str(path), vit, (4, 4)).dropped) == extra.keys()
    with pytest.raises(UserError, match="Set backbone.pre_logits=True, or head='new'"):
        load(str(path), vit, (4, 4), head="load")
    more = {n: v for n, v in extra.items() if n.startswith("pre_logits")}
    assert load(str(path), vit | more, (4, 4), head="load").head["kernel"].shape == (16, 7)
    with pytest.raises(UserError, match="Did you mean 'load'"):
        load(str(path), vit, (4, 4), head="laod")


def test_pre_logits_are_loaded_where_the_model_has_them(tmp_path):
    backbone = ViT(
        "Ti/4", 16, dim=16, mlp_dim=24, heads=2, depth=1, pre_logits=True, rngs=nnx.Rngs(0)
    )
    state = {n: np.asarray(v) for n, v in params.flatten(nnx.state(backbone)).items()}
    path = tmp_path / "a.npz"
    google.save(path, state)
    np.testing.assert_array_equal(
        load(str(path), state, (4, 4)).values["pre_logits/kernel"], state["pre_logits/kernel"]
    )
    without = {n: v for n, v in state.items() if not n.startswith("pre_logits")}
    google.save(path, without)
    with pytest.raises(UserError, match="missing \\(2\\):\n    pre_logits/bias"):
        load(str(path), state, (4, 4))


@settings(max_examples=30, deadline=None)
@given(old=st.integers(2, 9), new=st.integers(2, 12), seed=st.integers(0, 99))
def test_grids_are_resized_as_by_a_first_order_spline(old, new, seed):
    cells = np.random.default_rng(seed).standard_normal((old, old, 3)).astype(np.float32)
    ours = resize_grid(cells, (new, new))
    expected = scipy.ndimage.zoom(cells, (new / old, new / old, 1), order=1)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    for row in (0, -1):
        for column in (0, -1):
            np.testing.assert_array_equal(ours[row, column], cells[row, column])


@given(edge=st.integers(1, 9))
def test_resizing_to_the_same_grid_changes_nothing(edge):
    cells = np.random.default_rng(edge).standard_normal((edge, edge, 2)).astype(np.float32)
    np.testing.assert_array_equal(resize_grid(cells, (edge, edge)), cells)


def test_positions_of_another_grid_are_resized_and_it_is_said(tmp_path, vit):
    google.save(tmp_path / "a.npz", vit)
    expected = vit | {"pos_embed": np.zeros((1 + 2 * 6, 16))}
    loaded = load(str(tmp_path / "a.npz"), expected, (2, 6))
    assert loaded.resized == "positions 4x4 -> 2x6"
    assert loaded.values["pos_embed"].shape == (13, 16)
    np.testing.assert_array_equal(loaded.values["pos_embed"][0], vit["pos_embed"][0])
