"""Grad-CAM by hand, at any site; its figure, pixel by pixel."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from tests.helpers.cases import make
from tests.report.plots.subjects import subject
from vpjax.core.errors import UserError
from vpjax.models.partition import merge
from vpjax.report.plots import gradcam
from vpjax.report.plots.style import HEAT
from vpjax.report.plots.subject import watched

IMAGES = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def test_the_map_is_its_formula():
    activations = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 2.0]]])  # h w K
    gradients = np.stack([np.full((2, 2), 2.0), np.array([[0.0, -4.0], [0.0, 0.0]])], -1)
    found = gradcam.Cam(np.zeros(3), 0, activations, gradients, "x")
    np.testing.assert_allclose(found.weights, [2, -1])
    np.testing.assert_allclose(found.raw, [[0, 6], [0, 2]])
    np.testing.assert_allclose(found.map, [[0, 1], [0, 1 / 3]], atol=1e-7)
    nothing = gradcam.Cam(np.zeros(3), 0, activations, -gradients * [1, 0], "x")
    assert (nothing.map == 0).all()


@pytest.mark.parametrize(
    ("backbone", "method", "target", "grid"),
    [
        ("vit", "vpt_deep", "1.norm1", (4, 4)),
        ("vit", "vpt_shallow", "1.norm1", (4, 4)),
        ("vit", "vpt_deep", "0.mlp", (4, 4)),
        ("vit", "linear", "stem", (4, 4)),
        ("swin", "vpt_deep", "4.norm1", (2, 2)),
        ("convnext", "linear", "3.mlp", (2, 2)),
        ("resnet", "linear", "2.conv3", (2, 2)),
        ("vit", "sa2vp", "1.norm1", (4, 4)),
    ],
)
def test_gradients_at_every_kind_of_site(backbone, method, target, grid):
    """Against moving one number of the site: grid tokens come behind class token and prompts."""
    parts = tuple(make(backbone, method))
    found = gradcam.cam(parts, IMAGES, target)
    assert found.activations.shape[:2] == found.map.shape == grid
    graph, *numbers = parts
    place, eps = (1, 0, 2), 1e-2

    @jax.jit
    def logit(moved, *numbers):
        model, seen = merge(graph, *numbers), []

        def see(site, y, ctx):
            name = site if ctx.layer is None else f"{ctx.layer}.{site}"
            if name != target or seen:
                return y
            seen.append(y)
            if y.ndim == 4:
                return y.at[0, place[0], place[1], place[2]].add(moved)
            row = y.shape[1] - grid[0] * grid[1] + place[0] * grid[1] + place[1]
            return y.at[0, row, place[2]].add(moved)

        return watched(model, IMAGES, see)["logits"][0, found.chosen]

    up, down = (logit(jnp.float32(s * eps), *numbers) for s in (1, -1))
    slope = float(up - down) / (2 * eps)
    assert found.gradients[place] == pytest.approx(slope, rel=0.02, abs=2e-4)
    if (backbone, target) != ("vit", "0.mlp"):
        assert abs(found.gradients).max() > 1e-4


def test_the_default_and_what_there_is():
    sites = gradcam.sites(tuple(make("vit", "vpt_deep")), IMAGES)
    assert gradcam.choose(sites) == "1.norm1"
    assert "1.mlp" not in sites  # the last layer computes the class token alone
    assert "0.attn.query" not in sites
    assert gradcam.choose(gradcam.sites(tuple(make("resnet", "linear")), IMAGES)) == "2.conv3"
    with pytest.raises(UserError, match="Did you mean '0.norm1'"):
        gradcam.choose(sites, "0.nrm1")
    one_cell = {"0.conv": jnp.zeros((1, 2, 2, 3)), "1.conv": jnp.zeros((1, 1, 1, 3))}
    assert gradcam.choose(one_cell) == "0.conv"


def test_the_chosen_class_is_asked_for():
    parts = tuple(make("resnet", "linear"))
    maps = [gradcam.cam(parts, IMAGES, "1.conv1", k) for k in range(5)]
    assert [m.chosen for m in maps] == list(range(5))
    assert gradcam.cam(parts, IMAGES).chosen == maps[0].logits.argmax()
    assert not np.allclose(maps[0].gradients, maps[1].gradients)


def test_panels():
    image = np.linspace(-1, 2, 6 * 8, dtype=np.float32).reshape(6, 8, 1)
    shown, heat, both = gradcam.panels(image, np.array([[0.0, 1.0]]))
    assert shown.shape == heat.shape == (6, 8) and both.shape == (6, 8, 3)
    assert shown.min() == 0 and shown.max() == pytest.approx(1)
    np.testing.assert_allclose(heat[0], np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1), atol=1e-6)
    table = matplotlib.colormaps["jet"](np.arange(256))[:, :3]
    index = np.minimum(np.floor(256 * heat), 255).astype(int)
    expected = np.clip(0.6 * shown[..., None] + 0.4 * table[index], 0, 1)
    np.testing.assert_allclose(both, expected, atol=1e-6)
    assert gradcam.panels(np.random.rand(4, 4, 3), np.eye(2))[0].shape == (4, 4, 3)
    grey = gradcam.panels(np.repeat(np.random.rand(4, 4, 1), 3, 2), np.eye(2))[0]
    assert grey.shape == (4, 4)


def test_a_map_over_a_photo_leaves_the_photo_as_it_is():
    heat, both = gradcam.over(np.full((4, 4, 3), 0.5, np.float32), np.eye(2))
    table = matplotlib.colormaps[HEAT](heat)[..., :3]
    np.testing.assert_allclose(both, 0.3 + 0.4 * table, atol=1e-6)


def test_the_figure_has_the_baseline_above(tmp_path):
    run = subject("msvp", tmp_path, image=3, baseline=subject("full", image=3))
    figure = gradcam.gradcam(run)
    labels = [axes.get_ylabel() for axes in figure.axes[::3]]
    assert labels[0].startswith("baseline Full\npredicts ") and labels[1].startswith(
        "MSVP\npredicts "
    )
    assert figure.axes[4].get_title().endswith(", 2 x 2")
    assert figure.get_suptitle().startswith(f"true class {run.classes[run.label]}; evidence for ")
    assert "number 3 of digits/high" in figure.get_label()
    mine = gradcam.cam(run.parts, run.example[0])
    drawn = np.asarray(figure.axes[4].images[0].get_array())
    np.testing.assert_allclose(drawn, gradcam.resized(mine.map, (8, 8)), atol=1e-6)
    base = run.baseline
    theirs = gradcam.cam(base.parts, base.example[0], chosen=mine.chosen)
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    np.testing.assert_allclose(drawn, gradcam.resized(theirs.map, (8, 8)), atol=1e-6)
    image = pixels(figure)
    coloured = (image.max(-1) - image.min(-1) > 60).mean()
    assert coloured > 0.2  # maps and overlays, in colours
