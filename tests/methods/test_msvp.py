"""MS-VP: its prompts against their formulas, its networks as published, its recipe."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import msvp as recipe
from tests.helpers import cases
from vpjax.backbones.cnn import CNN
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.finetune import Full
from vpjax.methods.msvp import FUSIONS, MSVP, SCALES, MSVPFrozen
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.runs.fit import fit
from vpjax.runs.scores import evaluate_run


def pixels(batch=2, size=(16, 16), channels=3, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, *size, channels))


@functools.cache
def method(cls=MSVP, channels=3, **options):
    """A method whose numbers are large enough to matter."""
    body = CNN(16, width=2, channels=channels, rngs=nnx.Rngs(0))
    made = cls(body, 5, rngs=nnx.Rngs(1), **options)
    graphdef, state = nnx.split(made)
    keys = jax.random.split(jax.random.key(2), 9)
    flat = params.flatten(state)
    drawn = {
        n: jax.random.normal(k, v.shape) for (n, v), k in zip(flat.items(), keys, strict=False)
    }
    return nnx.merge(graphdef, params.fill(state, drawn))


@pytest.mark.parametrize(
    ("scales", "rgb", "grey"),
    [
        ("global", (3, 21, 15), (1, 3, 3)),
        ("global+mid", (51, 78, 63), (17, 20, 19)),
        ("full", (243, 279, 255), (81, 85, 83)),
    ],
)
def test_numbers_of_parameters_that_prompts_add(scales, rgb, grey):
    for channels, expected in ((3, rgb), (1, grey)):
        for fusion, added in zip(FUSIONS, expected, strict=True):
            made = method(channels=channels, prompt_scales=scales, fusion_type=fusion)
            own = params.flatten(nnx.state(made))
            assert sum(v.size for n, v in own.items() if not n.startswith("head/")) == added


def enlarged(prompt, size):
    """Bilinear, centres at half pixels, edges clamped: pixel by pixel."""
    h, w, _ = prompt.shape
    out = np.zeros((*size, prompt.shape[-1]))
    for y in range(size[0]):
        for x in range(size[1]):
            row = np.clip((y + 0.5) * h / size[0] - 0.5, 0, h - 1)
            column = np.clip((x + 0.5) * w / size[1] - 0.5, 0, w - 1)
            top, left = int(row), int(column)
            for r, a in ((top, 1 - row + top), (min(top + 1, h - 1), row - top)):
                for c, b in ((left, 1 - column + left), (min(left + 1, w - 1), column - left)):
                    out[y, x] += a * b * prompt[r, c]
    return out


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_prompting_is_its_formula(scales, fusion):
    made, x, size = (
        method(prompt_scales=scales, fusion_type=fusion),
        pixels(size=(17, 20)),
        (17, 20),
    )
    kinds = [made.global_prompt, made.mid_prompt, made.local_prompt][: len(SCALES[scales])]
    prompts = [enlarged(np.asarray(p[...]), size) for p in kinds]
    mean = np.mean(prompts, axis=0)
    if fusion == "add":
        expected = x + mean
    elif fusion == "gated":
        expected = x + mean / (1 + np.exp(-mean @ made.fusion.kernel[...] - made.fusion.bias[...]))
    else:
        both = [x, *(np.broadcast_to(p, x.shape) for p in prompts)]
        expected = np.concatenate(both, axis=-1) @ made.fusion.kernel[...]
    np.testing.assert_allclose(made.prompted(x), expected, atol=2e-5)
    assert made.prompted(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_images_smaller_than_a_prompt_get_it_without_blurring():
    made = method()
    found = made.enlarged((4, 4))["local"]
    np.testing.assert_allclose(
        found, enlarged(np.asarray(made.local_prompt[...]), (4, 4)), atol=1e-5
    )


@pytest.mark.parametrize("backbone", ["vit", "swin", "convnext", "resnet", "cnn"])
def test_prompts_come_before_everything_else(backbone):
    body = cases.BACKBONES[backbone](nnx.Rngs(0))
    one, other = MSVP(body, 5, rngs=nnx.Rngs(1)), Full(body, 5, rngs=nnx.Rngs(1))
    one.head.kernel[...] = other.head.kernel[...] = pixels(1)[0, 0, 0, 0] + jnp.ones((body.dim, 5))
    x, run = pixels(), jax.jit(lambda model, images: model(images)["logits"])
    prompted = run(Model(body, one), x)
    np.testing.assert_allclose(prompted, run(Model(body, other), one.prompted(x)), atol=1e-5)


def test_how_prompts_and_fusions_begin():
    body = CNN(16, width=2, rngs=nnx.Rngs(0))

    def drawn(seed=1, **options):
        return MSVP(body, 5, rngs=nnx.Rngs(seed), **options)

    seeds = [drawn(seed, fusion_type="concat") for seed in range(20)]
    many = np.stack([m.fusion.kernel[...] for m in seeds])
    assert np.std(many) == pytest.approx(math.sqrt(2 / 3), rel=0.1)
    assert np.std([m.local_prompt[...] for m in seeds]) == pytest.approx(0.01, rel=0.05)
    assert not np.any(drawn(fusion_type="gated", gate_bias="zero").fusion.bias[...])
    bias = np.abs(drawn(fusion_type="gated").fusion.bias[...])
    assert bias.min() > 0 and bias.max() < 3**-0.5
    assert drawn(fusion_type="add").fusion is None
    assert drawn(prompt_scales="global+mid").local_prompt is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_scales": "globl"}, "unknown prompt_scales 'globl'. Did you mean 'global'"),
        ({"fusion_type": "gate"}, "Did you mean 'gated'"),
        ({"gate_bias": "zeros"}, "Did you mean 'zero'"),
        ({"head_init": "normal_0.1"}, "Did you mean 'normal_0.01'"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        MSVP(CNN(16, width=2, rngs=nnx.Rngs(0)), 5, rngs=nnx.Rngs(0), **options)


def test_frozen_leaves_the_backbone_alone():
    body = CNN(16, width=2, rngs=nnx.Rngs(0))
    parts = partition(Model(body, MSVPFrozen(body, 5, fusion_type="gated", rngs=nnx.Rngs(0))))
    assert {n.split("/")[1] for n in parts.trainable} == {
        "head", "fusion", "global_prompt", "mid_prompt", "local_prompt"
    }  # fmt: skip
    assert not parts.stats
    x = pixels()
    run = lambda ctx: cases.outputs(parts, x, ctx)["features"]  # noqa: E731
    np.testing.assert_allclose(run(Context(key=jax.random.key(0))), run(EVALUATION), atol=1e-6)


def test_choices_of_the_recipe():
    config = recipe.get_config("fashion_mnist,model=vit,fusion=concat,scales=global")
    assert (config.data.name, config.data.preset) == ("fashion_mnist", "msvp_mnist")
    assert (config.backbone.variant, config.backbone.channels) == ("Ti/7", 1)
    assert (config.method.fusion_type, config.method.prompt_scales) == ("concat", "global")
    assert (config.method.gate_bias, config.method.head_init) == ("uniform", "normal_0.02")
    assert recipe.get_config("model=cnn,fusion=gated").method.gate_bias == "zero"
    assert recipe.get_config("prompts=no").method.name == "finetune.Full"
    assert recipe.get_config("schedule=onecycle").optim.lr == pytest.approx(1e-2)
    for label, match in (
        ("cifar", "Did you mean 'cifar10'"),
        ("model=resnet", "Did you mean 'resnet18'"),
        ("prompts=maybe", "Available: no, yes"),
        ("schedule=cosin", "Did you mean 'cosine'"),
    ):
        with pytest.raises(UserError, match=match):
            recipe.get_config(label)


def run(tmp_path, label="", **sections):
    """Trains a narrow CNN on the embedded digits for two epochs of 52 images, the last 20 of them a
    smaller batch.
    """
    config = recipe.get_config(f"data=digits,model=cnn{label}")
    config.backbone.width = 4
    config.data.update(train="train[:52]", val="train[60:100]", preset="msvp_mnist")
    config.train.update(batch_size=32, epochs=2.0, save_every=0.0)
    config.draw = False
    for section, values in sections.items():
        config[section].update(values)
    return fit(config, tmp_path)


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_run_restores_its_batch_statistics(tmp_path, cache):
    found = run(tmp_path, ",schedule=onecycle,fusion=gated", train={"label_smoothing": 0.1})
    assert found["step"] == 4  # the last batch of an epoch holds 20 images and 12 of padding
    assert found["trainable"] == found["total"]
    assert {"test_accuracy", "test_accuracy_best", "best_val_accuracy"} <= found.keys()
    again = evaluate_run(tmp_path)
    assert (again["test_accuracy"], again["test_loss"]) == (
        found["test_accuracy"],
        found["test_loss"],
    )
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best", "last"}
    (tmp_path / "result.json").unlink()  # as if it had been killed at the very end
    resumed = run(tmp_path, ",schedule=onecycle,fusion=gated", train={"label_smoothing": 0.1})
    assert resumed["test_loss"] == found["test_loss"]


def test_validation_images_may_be_augmented_like_training_ones(tmp_path, cache):
    options = {"train": {"epochs": 1.0, "test_best": False}, "data": {"test": ""}}
    clean = run(tmp_path / "clean", **options)
    options["data"] = {"test": "", "val_augmented": True}
    found = run(tmp_path / "augmented", **options)
    assert found["val_loss"] != clean["val_loss"]
    assert evaluate_run(tmp_path / "augmented")["val_loss"] == found["val_loss"]
    with pytest.raises(UserError, match="crops at random on the host"):
        run(tmp_path / "other", data={"val_augmented": True, "preset": "vpt_fgvc"})


def test_what_a_run_needs_is_checked_first(tmp_path, cache):
    with pytest.raises(UserError, match="train.test_best needs"):
        run(tmp_path, data={"val": ""})
    with pytest.raises(UserError, match="Did you mean 'keep'"):
        run(tmp_path, train={"remainder": "kep"})
    with pytest.raises(UserError, match="train.label_smoothing is 1.0"):
        run(tmp_path, train={"label_smoothing": 1.0})
