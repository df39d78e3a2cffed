"""Patch embeddings and positions carried to another patch size and grid."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from vpjax.backbones.vit import ViT
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.weights import google
from vpjax.weights.load import load
from vpjax.weights.positions import fit_positions
from vpjax.weights.resample import RULES, matrix, resize_grid, resize_patches

DATA = Path(__file__).parent / "data"


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(old=st.integers(1, 20), new=st.integers(1, 20), rule=st.sampled_from(RULES))
def test_rows_sum_to_one_and_the_same_size_changes_nothing(old, new, rule):
    np.testing.assert_allclose(matrix(old, new, rule).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix(old, old, rule), np.eye(old), atol=1e-12)


@pytest.mark.parametrize("old, new", [(14, 8), (7, 8), (3, 11), (16, 4)])
@pytest.mark.parametrize("rule", ["bicubic", "bilinear"])
def test_grids_are_resized_as_jax_does_it(old, new, rule):
    cells = drawn(old, old + 1, 2)
    method, antialias = {"bicubic": ("cubic", True), "bilinear": ("linear", False)}[rule]
    jaxs = jax.image.resize(jnp.asarray(cells), (new, new, 2), method, antialias=antialias)
    np.testing.assert_allclose(resize_grid(cells, (new, new), rule), jaxs, atol=2e-6)


@pytest.mark.parametrize("rule", ["bicubic", "bilinear"])
def test_larger_patches_answer_to_resized_images_as_before(rule):
    kernel, image = drawn(4, 6, 3, 5), drawn(4, 6, 3, seed=1)
    wide = resize_patches(kernel, (7, 16), rule)
    before = np.einsum("hwc,hwcd->d", image, kernel)
    after = np.einsum("hwc,hwcd->d", resize_grid(image, (7, 16), rule), wide)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_smaller_patches_are_the_least_squares_solution():
    kernel = drawn(16, 16, 1, 1)
    row = matrix(16, 4, "bicubic")
    both = np.kron(row, row)  # 16 256
    best, *_ = np.linalg.lstsq(both.T, kernel.ravel().astype(np.float64), rcond=None)
    carried = resize_patches(kernel, (4, 4), "bicubic")
    np.testing.assert_allclose(carried.ravel(), best, rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(carried) > 2 * np.linalg.norm(resize_grid(kernel[..., 0], (4, 4)))


def test_rules_that_do_not_exist_or_do_not_suit():
    with pytest.raises(UserError, match="Did you mean 'bicubic'"):
        matrix(4, 4, "bicubik")
    with pytest.raises(UserError, match="resizes positions only"):
        resize_patches(drawn(4, 4, 3, 2), (2, 2), "align_corners")


def vit(patch, size):
    return ViT(
        f"Ti/{patch}", size, dim=8, mlp_dim=8, heads=2, depth=1, dropout=0.0, rngs=nnx.Rngs(0)
    )


@pytest.fixture
def file(tmp_path):
    """A ViT of 8-pixel patches for 56 pixels, and its file in Google's naming."""
    state = params.flatten(nnx.state(vit(8, 56)))
    google.save(tmp_path / "a.npz", state)
    return str(tmp_path / "a.npz"), {n: np.asarray(v) for n, v in state.items()}


def as_timm(values):
    """The same numbers in timm's naming, of one layer."""
    out = {"cls_token": values["cls_token"][None], "pos_embed": values["pos_embed"][None]}
    out["patch_embed.proj.weight"] = values["patch_embed/kernel"].transpose(3, 2, 0, 1)
    out["patch_embed.proj.bias"] = values["patch_embed/bias"]
    out |= {f"norm.{t}": values[f"norm/{o}"] for o, t in (("scale", "weight"), ("bias", "bias"))}
    ours, theirs = "layers/0", "blocks.0"
    for norm in ("norm1", "norm2"):
        for o, t in (("scale", "weight"), ("bias", "bias")):
            out[f"{theirs}.{norm}.{t}"] = values[f"{ours}/{norm}/{o}"]
    parts = [f"{ours}/attn/{n}" for n in ("query", "key", "value")]
    out[f"{theirs}.attn.qkv.weight"] = np.concatenate(
        [values[f"{p}/kernel"].reshape(8, 8).T for p in parts]
    )
    out[f"{theirs}.attn.qkv.bias"] = np.concatenate([values[f"{p}/bias"].ravel() for p in parts])
    for o, t in (("attn/out", "attn.proj"), ("mlp/fc1", "mlp.fc1"), ("mlp/fc2", "mlp.fc2")):
        out[f"{theirs}.{t}.weight"] = values[f"{ours}/{o}/kernel"].reshape(8, 8).T
        out[f"{theirs}.{t}.bias"] = values[f"{ours}/{o}/bias"]
    return out


@pytest.mark.parametrize("rule", ["bicubic", "bilinear"])
def test_a_file_is_carried_to_other_patches_and_it_is_said(tmp_path, file, rule):
    path, values = file
    small = vit(4, (32, 24))
    expected = params.flatten(nnx.state(small))
    loaded = load(path, expected, small.grid, resample=rule)
    assert loaded.resized == "positions 7x7 -> 8x6, patches 8x8 -> 4x4"
    kernel = resize_patches(values["patch_embed/kernel"], (4, 4), rule)
    np.testing.assert_array_equal(loaded.values["patch_embed/kernel"], kernel)
    cells = resize_grid(values["pos_embed"][1:].reshape(7, 7, -1), (8, 6), rule)
    np.testing.assert_array_equal(loaded.values["pos_embed"][1:], cells.reshape(48, -1))
    np.testing.assert_array_equal(loaded.values["pos_embed"][0], values["pos_embed"][0])
    for name in expected.keys() - {"pos_embed", "patch_embed/kernel"}:
        np.testing.assert_array_equal(loaded.values[name], values[name])

    np.savez(tmp_path / "timm.npz", **as_timm(values))
    other = load(str(tmp_path / "timm.npz"), expected, small.grid, resample=rule)
    for name in expected:
        np.testing.assert_allclose(other.values[name], loaded.values[name], atol=1e-6)


def test_other_patches_are_refused_unless_asked_for(file):
    small = vit(4, 32)
    expected = params.flatten(nnx.state(small))
    with pytest.raises(UserError) as error:
        load(file[0], expected, small.grid)
    assert "patch_embed/kernel: file (8, 8, 3, 8), model (4, 4, 3, 8)" in str(error.value)
    assert "set backbone.resample='bicubic'" in str(error.value)
    with pytest.raises(UserError, match="Did you mean 'bicubic'"):
        load(file[0], expected, small.grid, resample="bicubc")


def test_a_width_that_differs_is_no_matter_of_patches(file):
    wide = ViT("Ti/4", 32, dim=12, mlp_dim=8, heads=2, depth=1, rngs=nnx.Rngs(0))
    expected = params.flatten(nnx.state(wide))
    with pytest.raises(UserError, match="do not fit") as error:
        load(file[0], expected, wide.grid, resample="bicubic")
    assert "backbone.resample" not in str(error.value)


@pytest.mark.parametrize("rule", ["bicubic", "bicubic_no_antialias", "bilinear"])
@pytest.mark.parametrize("number", range(6))
def test_grids_are_resized_as_torch_did(rule, number):
    with np.load(DATA / "resized.npz") as file:
        cells, expected = file[f"{number}.cells"], file[f"{number}.{rule}"]
    np.testing.assert_allclose(resize_grid(cells, expected.shape[:2], rule), expected, atol=1e-6)


# Positions of files


def positions(rows, dim=3):
    return np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_any_number_of_prefix_tokens(prefix):
    given_rows = positions(prefix + 9)
    ours, change = fit_positions(given_rows, (5, 4), "a", "bicubic", prefix)
    assert ours.shape == (prefix + 20, 3) and change == "3x3 -> 5x4"
    np.testing.assert_array_equal(ours[:prefix], given_rows[:prefix])
    cells = resize_grid(given_rows[prefix:].reshape(3, 3, 3), (5, 4), "bicubic")
    np.testing.assert_array_equal(ours[prefix:], cells.reshape(20, 3))
    same, change = fit_positions(given_rows, (3, 3), "a", "bicubic", prefix)
    assert same is given_rows and change == ""


def test_a_grid_that_is_no_square():
    given_rows = positions(1 + 12)
    with pytest.raises(UserError, match=r"12 position embeddings are no square grid"):
        fit_positions(given_rows, (5, 5), "a")
    ours, change = fit_positions(given_rows, (5, 5), "a", source_grid=(2, 6))
    assert ours.shape == (26, 3) and change == "2x6 -> 5x5"
    # Of as many cells in another shape: what the configuration says counts.
    turned, change = fit_positions(given_rows, (6, 2), "a", source_grid=(2, 6))
    assert change == "2x6 -> 6x2" and not np.array_equal(turned, given_rows)
    assert fit_positions(given_rows, (2, 6), "a", source_grid=(2, 6)) == (given_rows, "")
    with pytest.raises(UserError, match="no grid of 3x3"):
        fit_positions(given_rows, (5, 5), "a", source_grid=(3, 3))


@pytest.mark.parametrize("shape", [(1, 3), (17,), (1, 4, 4, 3), (0, 3)])
def test_positions_of_another_kind(shape):
    with pytest.raises(UserError, match="position embeddings"):
        fit_positions(np.zeros(shape, np.float32), (4, 4), "a")
