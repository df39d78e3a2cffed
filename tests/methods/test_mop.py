"""MoP: the mixture against its plain form, over devices, memory, options, text features."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import cases, runs
from tests.helpers import clip as files
from vpjax.core.errors import UserError
from vpjax.methods.mop import MoP
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.models.text.features import ClassPrompts, TextFeatures, cached_text_features
from vpjax.nn import mop_similarity
from vpjax.nn.context import Context
from vpjax.runs import defaults
from vpjax.runs.config import section
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.runs.scores import evaluate_run
from vpjax.train import optim, sharding
from vpjax.train.losses import softmax
from vpjax.train.schedules import Plan, make_schedule
from vpjax.train.step import init_state, make_train_step

TRAINING = Context(key=jax.random.key(0))


def numbers(images=6, classes=7, prompts=4, dim=8, seed=0):
    """Features, labels, offsets and text."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    labels = jnp.asarray(rng.integers(0, classes, images), jnp.int32)
    features, text = mop_similarity.unit(draw(images, dim)), mop_similarity.unit(draw(classes, dim))
    return features, labels, 0.3 * draw(classes, prompts, dim), text


def plain(features, labels, offsets, text):
    """All similarities at once, the gradient to the first of equal ones: the oracle."""
    v = text[:, None] + offsets
    p = v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    s = jnp.einsum("bd,ckd->bck", features, p, precision="highest")
    index = jax.lax.stop_gradient(s).argmax(-1)
    return (
        jnp.take_along_axis(s, index[..., None], -1)[..., 0],
        index,
        s[jnp.arange(len(s)), labels],
    )


def value(form, arrays, offsets):
    """A number that depends on every part, and its gradient."""
    features, labels, _, text = arrays

    @jax.jit
    def run(offsets):
        best, index, own = form(features, labels, offsets, text)
        loss = optax.softmax_cross_entropy_with_integer_labels(9 * best, labels).sum()
        return loss + (own**2).sum(), index

    return jax.value_and_grad(run, has_aux=True)(offsets)


def ours(chunk, mesh=None):
    def form(features, labels, offsets, text):
        best, index = mop_similarity.max_similarity(features, offsets, text, chunk, mesh)
        own, _ = mop_similarity.label_similarity(features, labels, offsets, text, mesh)
        return best, index, own

    return form


@pytest.mark.parametrize("chunk", [0, 1, 3, 7, 50])
def test_chunks_equal_the_plain_form(chunk):
    arrays = numbers()
    (expected, index), gradient = value(plain, arrays, arrays[2])
    (found, mine), own_gradient = value(ours(chunk), arrays, arrays[2])
    np.testing.assert_array_equal(mine, index)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(own_gradient, gradient, atol=1e-5)


@pytest.mark.parametrize("chunk", [0, 2])
def test_of_equal_sub_prompts_the_first_learns(chunk):
    arrays = numbers()
    features, _, offsets, text = arrays
    best = lambda o: mop_similarity.max_similarity(features, o, text, chunk)[0].sum()  # noqa: E731
    gradient = jax.grad(best)(jnp.zeros_like(offsets))
    assert not gradient[:, 1:].any()
    assert np.abs(gradient[:, 0]).min(-1).max() > 0
    _, expected = value(plain, arrays, jnp.zeros_like(offsets))
    _, found = value(ours(chunk), arrays, jnp.zeros_like(offsets))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (2, 4)])
@pytest.mark.parametrize("chunk", [0, 3, 5])
def test_what_flows_back_into_features(shape, chunk):
    """For GradCAM, and for backbones that are tuned along."""
    features, labels, offsets, text = numbers(images=8, classes=8)
    mesh = sharding.make_mesh(shape[0], model=shape[1])

    def loss(form, f):
        best, _, own = form(f, labels, offsets, text)
        return (best**3).sum() + (own**2).sum()

    expected = jax.grad(lambda f: loss(plain, f))(features)
    found = jax.jit(jax.grad(lambda f: loss(ours(chunk, mesh), f)))(features)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (8, 1)])
def test_classes_split_over_devices_equal_one(shape):
    arrays = numbers(images=8, classes=8)
    mesh = sharding.make_mesh(shape[0], model=shape[1])
    rules = {"offsets|text": "model"}
    named = dict(zip(("features", "labels", "offsets", "text"), arrays, strict=True))
    features, labels, offsets, text = sharding.place(named, mesh, rules).values()
    (expected, index), gradient = value(plain, arrays, arrays[2])
    split = (features, labels, None, text)
    (found, mine), own_gradient = value(ours(2, mesh), split, offsets)
    np.testing.assert_array_equal(mine, index)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(own_gradient, gradient, atol=1e-5)
    _, cosines = jax.jit(lambda *a: mop_similarity.label_similarity(*a, mesh))(
        features, labels, offsets, text
    )
    _, alone = mop_similarity.label_similarity(*arrays)
    np.testing.assert_allclose(cosines, alone, atol=1e-6)


@functools.cache
def stepped(data, model, steps=2, **options):
    """The library's own steps on a mesh: losses, the state, and what the compiler made."""
    mesh = sharding.make_mesh(data, model=model)
    backbone = clip()
    own = {"num_prompts": 3, "mesh": mesh, "temp_cls": 1.0} | options
    parts = partition(Model(backbone, MoP(backbone, 11, rngs=nnx.Rngs(1), **own)))
    # The same numbers whatever the padding.
    first = 0.1 * np.random.default_rng(0).normal(size=(11, 3, backbone.dim))
    text = mop_similarity.unit(
        jnp.asarray(np.random.default_rng(1).normal(size=(11, backbone.dim)))
    )
    rows = len(parts.trainable["method/offsets"])
    pad = lambda x: jnp.asarray(np.pad(x, [(0, rows - 11)] + [(0, 0)] * (x.ndim - 1)), jnp.float32)  # noqa: E731
    trainable, frozen = {"method/offsets": pad(first)}, parts.frozen | {"method/text": pad(text)}
    optimiser = optax.adam(1e-2)
    state = sharding.place(init_state(trainable, {}, optimiser, 0), mesh, MoP.sharded)
    frozen = sharding.place(frozen, mesh, MoP.sharded)
    step = make_train_step(parts.graph, optimiser, lambda batch, key: batch["image"] / 100.0, steps)
    rng = np.random.default_rng(2)
    images = rng.normal(size=(8, 16, 16, 3)).astype(np.float32) * 100
    batch = {"image": images, "label": np.arange(8, dtype=np.int32), "mask": np.arange(8) < 7}
    batch = sharding.put_batch(batch, mesh)
    compiled, losses = step.lower(state, frozen, batch).compile(), []
    for _ in range(steps):
        state, found = compiled(state, frozen, batch)
        losses.append({k: float(v) for k, v in found.items()})
    return losses, state, compiled.as_text()


@pytest.mark.parametrize(("data", "model"), [(1, 8), (2, 4)])
def test_a_step_on_eight_devices_equals_one(data, model):
    (expected, alone, _), (found, state, _) = stepped(1, 1), stepped(data, model)
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=2e-5)
    offsets = state.trainable["method/offsets"]
    assert len(offsets) > 11 and not offsets[11:].any()
    np.testing.assert_allclose(offsets[:11], alone.trainable["method/offsets"], atol=2e-5)


def test_what_is_split_stays_split_and_never_travels():
    _, state, text = stepped(1, 8)
    adam = state.opt[0]
    for array in (state.trainable, adam.mu, adam.nu):
        array = array["method/offsets"]
        assert {s.data.shape for s in array.addressable_shards} == {(2, 3, 12)}
    gathered = [line for line in text.splitlines() if "all-gather(" in line]
    assert not [line for line in gathered if "16,3,12" in line or "11,3,12" in line]


def test_the_history_shows_the_terms_and_the_temperature():
    first, second = stepped(1, 1)[0]
    assert first.keys() >= {"loss", "loss_mixture", "loss_cls", "loss_reg", "tau", "accuracy"}
    assert (first["tau"], second["tau"]) == pytest.approx((1.0, 0.525))
    total = 0.5 * first["loss_mixture"] + 0.5 * first["loss_cls"] + first["loss_reg"]
    assert first["loss"] == pytest.approx(total, rel=1e-5)


def memory(form, images, classes, prompts, dim):
    """Bytes of temporaries of a value and its gradient."""
    shapes = [(images, dim), (images,), (classes, prompts, dim), (classes, dim)]
    kinds = [jnp.float32, jnp.int32, jnp.float32, jnp.float32]
    arrays = [jax.ShapeDtypeStruct(*s) for s in zip(shapes, kinds, strict=True)]

    def run(features, labels, offsets, text):
        best, _, own = form(features, labels, offsets, text)
        loss = optax.softmax_cross_entropy_with_integer_labels(9 * best, labels).mean()
        return loss + own.mean() + (offsets**2).mean()

    compiled = jax.jit(jax.value_and_grad(run, argnums=2)).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_similarities_are_not_held_at_once():
    size = {"images": 64, "classes": 1000, "prompts": 8, "dim": 16}
    similarities = 4 * 64 * 1000 * 8
    # What stays is B C: class logits, their gradient, winners.
    assert memory(ours(25), **size) < 0.6 * similarities < 2 * similarities < memory(plain, **size)


@pytest.mark.slow
def test_ten_thousand_classes_need_less_than_one_and_a_half_gigabytes():
    size = {"images": 1024, "classes": 10_000, "prompts": 32, "dim": 512}
    assert memory(ours(0), **size) < 1.5e9 < 3e9 < memory(plain, **size)
    assert memory(ours(0), **size | {"images": 16}) < 0.5e9


@functools.cache
def clip():
    return cases.tiny_clip(nnx.Rngs(0))


def method(**options):
    options = {"num_prompts": 3, "temp_cls": 1.0} | options
    return MoP(clip(), 5, rngs=nnx.Rngs(0), **options)


def drawn(count):
    features = np.random.default_rng(0).normal(size=(5, clip().dim))[:count]
    return jnp.asarray(features, jnp.float32)


def terms(model, labels, ctx=TRAINING):
    return model.loss_terms(
        model.classify(drawn(len(labels)), ctx), jnp.asarray(labels), softmax, ctx
    )


def test_offsets_alone_learn():
    backbone = clip()
    model = Model(backbone, MoP(backbone, 4, rngs=nnx.Rngs(0)))
    # Text is no parameter, so that no regular expression makes it one.
    for pattern in ("", "method/.*"):
        assert set(partition(model, pattern).trainable) == {"method/offsets"}
    assert model.method.offsets.shape == (4, 32, backbone.dim)
    assert float(model.method.offsets[...].std()) == pytest.approx(0.01, rel=0.1)
    assert not method(init="zero").offsets[...].any()


def test_temperature_sharpens_what_an_image_belongs_to():
    model, labels = method(tau_start=2.0, tau_end=0.5), jnp.arange(5)
    tau = [float(model.tau(p)) for p in (0.0, 0.5, 1.0, 1.2)]
    assert tau == pytest.approx([2, 1.25, 0.5, 0.5])
    assert float(method(tau_start=2.0, anneal=False).tau(0.7)) == 2
    features = drawn(5)
    soft, sharp = (model.assign(features, labels, t).max(-1) for t in (5.0, 0.5))
    assert (sharp > soft).all()
    hard = method(assignment="hard").assign(features, labels, 5.0)
    np.testing.assert_array_equal(jnp.sort(hard)[:, -2:], [[0, 1]] * 5)


def test_evaluation_reports_the_cross_entropy_alone():
    model, labels = method(), jnp.arange(5)
    found = terms(model, labels, Context())
    assert set(found) == {"loss"}
    np.testing.assert_allclose(found["loss"], terms(model, labels)["loss_cls"])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_lambda_weighs_both_terms(weight):
    found = terms(method(lambda_mixture=weight), jnp.arange(5))
    both = weight * found["loss_mixture"] + (1 - weight) * found["loss_cls"]
    np.testing.assert_allclose(found["loss"], both + found["loss_reg"], rtol=1e-6)


EXTRAS = {"diversity_weight": 2.0, "entropy_weight": 3.0, "usage_weight": 4.0}


def test_extra_terms_are_added_with_their_weights_and_have_gradients():
    labels = jnp.array([0, 1, 1, 4])
    without = terms(method(), labels)["loss"]
    found = terms(method(**EXTRAS), labels)
    extra = 2 * found["loss_diversity"] + 3 * found["loss_entropy"] + 4 * found["loss_usage"]
    np.testing.assert_allclose(found["loss"], without + extra, rtol=1e-6)
    for key in EXTRAS:
        graph, state = nnx.split(method(**{key: EXTRAS[key]}))
        name = f"loss_{key.removesuffix('_weight')}"
        loss = lambda s, g=graph, n=name: terms(nnx.merge(g, s, copy=True), labels)[n].mean()  # noqa: E731
        assert jnp.abs(jax.grad(loss)(state)["offsets"].get_value()).max() > 1e-6, key


def test_one_sub_prompt_has_no_pair():
    found = terms(method(num_prompts=1, diversity_weight=1.0), jnp.arange(5))
    assert not found["loss_diversity"].any()


def test_images_that_are_padding_change_nothing():
    labels, model = jnp.array([0, 1, 2, 0, 0]), method(**EXTRAS)
    ctx = dataclasses.replace(TRAINING, mask=jnp.arange(5) < 3)
    masked = terms(model, labels, ctx)["loss"][:3]
    out = model.classify(drawn(3), TRAINING)
    np.testing.assert_allclose(
        masked, model.loss_terms(out, labels[:3], softmax, TRAINING)["loss"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"init": "sematic"}, "Did you mean 'semantic'"),
        ({"assignment": "firm"}, "assignment"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"tau_end": 0.0}, "above 0"),
        ({"lambda_mixture": 1.5}, "between 0 and 1"),
    ],
)
def test_options_that_cannot_be(options, match):
    with pytest.raises(UserError, match=match):
        method(**options)


def test_several_classes_an_image_are_refused():
    with pytest.raises(UserError, match="one class an image"):
        terms(method(), jnp.zeros((4, 5), jnp.int32))


def rates(warmup, steps):
    config = defaults.get_config().optim
    config.update(name="adam", lr=5e-4, lr_base_batch_size=0)
    config.warmup_steps = warmup
    return np.asarray(make_schedule(optim.Settings(**config), Plan(steps, 7, 4))(np.arange(steps)))


def test_a_warm_up_in_steps_starts_at_zero():
    expected = optax.warmup_cosine_decay_schedule(0, 5e-4, 20, 100, 0)(np.arange(100))
    np.testing.assert_allclose(rates(20, 100), expected, atol=1e-9)


def test_a_run_shorter_than_its_warm_up_is_warned_of(caplog):
    with caplog.at_level("WARNING", logger="vpjax"):
        np.testing.assert_allclose(rates(200, 50), 5e-4 * np.arange(50) / 200, rtol=1e-6)
    assert "never reaches its peak" in caplog.text


def test_text_features_are_kept(tmp_path, caplog):
    asked = []

    def encode(prompts):
        asked.append(len(prompts))
        return np.stack([np.full(4, len(p)) + np.eye(4)[len(p) % 4] for p in prompts])

    prompts, templates = ["a cat", "a cat!", "a dog", "a puppy"], ["a {name}", "{name}!"]

    def make(prompts=prompts, templates=templates, weights="w"):
        prompts = ClassPrompts(prompts, templates, None)
        return cached_text_features(encode, prompts, weights, tmp_path)

    first, again = make(), make()
    assert asked == [4] and first.key == again.key
    np.testing.assert_array_equal(first.values, again.values)
    features = encode(prompts)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = unit.reshape(2, 2, 4).mean(1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(first.values, expected, rtol=1e-6)
    others = [make(weights="v"), make(prompts[::-1]), make(templates=["a {name}", "{name}?"])]
    assert len({first.key, *(o.key for o in others)}) == 4 and len(asked) == 5
    path = tmp_path / f"{first.key}.npz"
    path.write_bytes(path.read_bytes()[:60])
    np.testing.assert_array_equal(make().values, first.values)
    assert "damaged" in caplog.text and len(asked) == 6


@pytest.mark.parametrize("model", [1, 8])
def test_a_run_resumes_on_features_and_split_classes(tmp_path, monkeypatch, model):
    text = mop_similarity.unit(jnp.asarray(np.random.default_rng(0).normal(size=(5, files.JOINT))))
    given = lambda *_, **__: TextFeatures(np.asarray(text, np.float32), "a key")  # noqa: E731
    monkeypatch.setattr("vpjax.runs.experiment.class_text_features", given)
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))
    config = runs.config("linear", mesh={"data": 1, "model": model}, data={"preset": "clip"})
    config.backbone = defaults.backbone("clip.CLIP", weights=files.folder(tmp_path / "clip"))
    config.method = section("methods", "mop.MoP", num_prompts=2, temp_cls=0.5)
    config.optim.update(name="adam", lr=0.01, weight_decay=0.0)
    config.features, config.optim.warmup_steps = "cached", 2
    first = fit(config, tmp_path / "run")
    assert first["cached_features"] and first["trainable"] == (5 + -5 % model) * 2 * files.JOINT
    rows = [row for row in read_history(tmp_path / "run" / "metrics.jsonl") if "tau" in row]
    assert rows[-1]["tau"] < rows[0]["tau"] and rows[-1]["loss"] < rows[0]["loss"]
    newest = runs.newest(tmp_path / "run")
    meta = json.loads((newest / "meta" / "metadata").read_text())
    assert meta["backbone"]["text"] == "a key" and meta["config"]["method.num_prompts"] == 2
    whole = runs.digests(tmp_path / "run")
    shutil.rmtree(newest)
    (tmp_path / "run" / "result.json").unlink()
    fit(config, tmp_path / "run")
    assert runs.digests(tmp_path / "run") == whole
    assert evaluate_run(tmp_path / "run")["test_loss"] == first["test_loss"]
