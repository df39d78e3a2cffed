"""The picture of SA2VP: its weights are those of the model's attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.methods.sa2vp import SA2VP
from vpjax.models.model import Model
from vpjax.nn import local_attention
from vpjax.report.plots import prompt_map as drawing

GRID = (3, 4)


@pytest.mark.parametrize("variant", ["aligned", "acc"])
@pytest.mark.parametrize("extra", [0, 1])
def test_weights_are_those_of_the_attention(variant, extra):
    """Weights applied to values, head by head, give what the layer reads."""
    rng = np.random.default_rng(0)
    tokens = extra + GRID[0] * GRID[1]
    q, k = rng.standard_normal((2, 1, tokens, 1, tokens)).astype(np.float32)
    v = np.eye(tokens, dtype=np.float32)[None, :, None]
    expected = local_attention.local_attention(
        jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), GRID, variant, "dense"
    )
    found = drawing.weights(q, k, GRID, variant)
    np.testing.assert_allclose(found, expected.reshape(tokens, tokens), atol=1e-6)


def test_colours_are_colours():
    colours = drawing.colours(np.random.default_rng(0).standard_normal((12, 6)))
    assert colours.shape == (12, 3) and colours.min() == 0.0 and colours.max() == 1.0
    assert drawing.colours(np.ones((4, 2))).shape == (4, 3)


@pytest.fixture(scope="module")
def model():
    rngs = nnx.Rngs(0)
    backbone = ViT("Ti/4", 12, dim=16, depth=5, heads=2, mlp_dim=16, rngs=rngs)
    return Model(backbone, SA2VP(backbone, 3, inter_dim=4, rngs=rngs))


def test_the_figure(model):
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((1, 12, 12, 3)), jnp.float32)
    pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    figure = drawing.prompt_map(model, inputs, pixels, (0, 1))
    panels = [axes for part in figure.subfigs for axes in part.axes]
    receiving = len(model.backbone.layers) - len(model.method.to_prompt)
    assert len(panels) == 3 + receiving
    numbers = [float(text.get_text()) for text in panels[3].texts]
    assert len(numbers) == 6  # a patch at the upper edge has 6 prompts around it
    figure.canvas.draw()
    assert np.asarray(figure.canvas.buffer_rgba()).std() > 10
    with pytest.raises(UserError, match="outside the grid of 3x3"):
        drawing.prompt_map(model, inputs, pixels, (3, 0))


def test_a_tap_changes_nothing(model):
    inputs = jax.random.normal(jax.random.key(0), (1, 12, 12, 3))
    found, grid = drawing.reads(model, inputs)
    assert grid == (3, 3)
    for weights in found.values():
        assert (weights.sum(-1) < 1.1).all() and (weights >= 0).all()
