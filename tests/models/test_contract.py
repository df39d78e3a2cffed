"""What holds for every backbone with every method."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import cases
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.models.partition import merge, partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.stack import REMAT
from vpjax.train import sharding
from vpjax.train.step import init_state, make_train_step

BATCH = 8


def images(count=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, cases.IMAGE, cases.IMAGE, 3)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def batch(count=BATCH):
    labels = np.arange(count, dtype=np.int32) % cases.CLASSES
    return {"image": images(count), "label": labels, "mask": np.ones(count, bool)}


def prepare(x, key):
    return x.astype(jnp.float32) / 127.5 - 1


def to_input(batch, key):
    return prepare(batch["image"], key)


@functools.cache
def trained(backbone, method, devices=1, remat="none", fsdp=False):
    """Runs two of the library's own steps on a mesh; returns losses, state and traces.

    With `fsdp` frozen layers are split over the devices.
    """
    mesh = sharding.make_mesh(devices)
    parts = cases.make(backbone, method)
    if fsdp:
        parts = partition(merge(*parts), mesh=mesh)
    optimizer, traces = optax.sgd(0.1, momentum=0.9), []

    def counting(batch, key):
        traces.append(1)
        return to_input(batch, key)

    state = init_state(parts.trainable, parts.stats, optimizer, seed=0)
    state = sharding.replicate(state, mesh)
    frozen = sharding.place(parts.frozen, mesh, {}, frozen=fsdp)
    step = make_train_step(parts.graph, optimizer, counting, 2, remat)
    losses = []
    for _ in range(2):
        state, numbers = step(state, frozen, sharding.put_batch(batch(), mesh))
        losses.append(float(numbers["loss"]))
    return losses, state, len(traces)


@pytest.mark.parametrize(("backbone", "method"), cases.marked(cases.PAIRS))
def test_outputs_do_not_depend_on_the_rest_of_the_batch(backbone, method):
    parts = cases.make(backbone, method)
    call = jax.jit(lambda images: merge(*parts)(images, EVALUATION))
    x = prepare(images(), None)
    out = call(x)
    assert out["logits"].shape == (BATCH, cases.CLASSES)
    assert out["logits"].dtype == jnp.float32
    assert len(out["features"]) == BATCH
    np.testing.assert_array_equal(out["logits"], call(x)["logits"])
    others = jnp.where((jnp.arange(BATCH) // 3 == 1)[:, None, None, None], x, -x)
    changed = call(others)["logits"]
    np.testing.assert_allclose(out["logits"][3:6], changed[3:6], atol=1e-5)
    assert np.abs(out["logits"][0] - changed[0]).max() > 1e-4


@pytest.mark.parametrize(("backbone", "method"), cases.marked(cases.PAIRS))
def test_everything_trainable_trains_and_nothing_else(backbone, method):
    parts = cases.make(backbone, method)
    _, state, _ = trained(backbone, method)
    moved = {n for n, v in parts.trainable.items() if not np.array_equal(v, state.trainable[n])}
    still = {n for n in parts.trainable if without_gradient(backbone, n)}
    if method == "adapter":  # `up` starts at zero, so `down` follows a step later
        still |= {n for n in parts.trainable if "/adapters/" in n}
    assert moved | still == parts.trainable.keys()
    assert state.trainable.keys() == parts.trainable.keys()
    assert not parts.frozen.keys() & state.trainable.keys()


def without_gradient(backbone, name):
    """Whether a parameter has no gradient in theory, and rounding alone in practice."""
    # Softmax does not see a constant added to all keys, nor BatchNorm one added before it, nor a
    # norm the factor of a prompt whose own output is not used (E2VPT's mask of whole prompts).
    before_norm = ("conv/bias", "patch_embed/bias") if backbone == "cnn" else ()
    return name.endswith(("key/bias", "/token_mask", *before_norm))


SPLIT = ("vpt_deep", "vpt_shallow", "adapter", "sa2vp", "full")  # seen with fsdp by every test run


def layouts():
    """Pairs plainly parallel, and some with frozen layers split; the rest is for slow tests."""
    for backbone, method in cases.PAIRS:
        for fsdp in (False, True):
            key = (backbone, method) in cases.KEY_PAIRS
            quick = key and (backbone, method) in cases.QUICK
            quick = quick and (not fsdp or (backbone == "vit" and method in SPLIT))
            if (key and not fsdp) or backbone in ("vit", "clip", "swin", "resnet"):
                marks = () if quick else pytest.mark.slow
                yield pytest.param(backbone, method, fsdp, marks=marks)


@pytest.mark.parametrize(("backbone", "method", "fsdp"), list(layouts()))
def test_eight_devices_equal_one(backbone, method, fsdp):
    one, eight = trained(backbone, method), trained(backbone, method, devices=8, fsdp=fsdp)
    # Swin v2 divides queries and keys by their lengths: 2e-7 of an image change the gradient of the
    # tiny one by 2e-5, and after a step by 1e-4, on one device.
    same(one, eight, 5e-3 if backbone == "swin_v2" else 1e-5)
    ours, theirs = (jax.device_get(run[1].opt[0].trace) for run in (one, eight))
    largest = max((np.abs(v).max() for v in ours.values()), default=0.0)  # nothing may train
    limit = 1e-4 if backbone in ("resnet", "cnn") else 1e-5  # BatchNorm enlarges rounding
    limit = 5e-3 if backbone == "swin_v2" else limit
    for name, gradient in ours.items():
        # The gradient of Gate-VPT's temperatures is a sum over all scores, which nearly cancel.
        rounding = without_gradient(backbone, name) or name.endswith("/temperatures")
        size = largest if rounding else max(np.abs(gradient).max(), 1e-3 * largest)
        np.testing.assert_allclose(theirs[name], gradient, rtol=0, atol=limit * size, err_msg=name)


def test_every_method_has_a_case():
    classes = {cls for cls, _ in cases.METHODS.values()}
    for name in registry.available("methods"):
        assert registry.lookup("methods", name) in classes, (
            f"{name}: add it to tests/helpers/cases.py"
        )


@pytest.mark.parametrize(("backbone", "method"), cases.marked(cases.KEY_PAIRS))
def test_remat_changes_nothing(backbone, method):
    # What Partial trains of the CNN is its dense layer, without BatchNorm.
    stats = backbone in ("resnet", "cnn") and method in ("full", "partial", "msvp")
    if stats and (backbone, method) != ("cnn", "partial"):
        with pytest.raises(UserError, match="such layers cannot be run twice"):
            trained(backbone, method, remat="full")
        return
    same(trained(backbone, method), trained(backbone, method, remat="full"), 1e-6)


@pytest.mark.parametrize("remat", REMAT)
def test_every_remat_policy_changes_nothing(remat):
    same(trained("vit", "vpt_deep"), trained("vit", "vpt_deep", remat=remat), 1e-6)


def same(one, other, atol):
    np.testing.assert_allclose(one[0], other[0], rtol=max(atol, 1e-6))
    for name, value in one[1].trainable.items():
        limits = {"rtol": atol, "atol": atol}
        np.testing.assert_allclose(value, other[1].trainable[name], **limits, err_msg=name)


@pytest.mark.parametrize(("backbone", "method"), cases.marked(cases.KEY_PAIRS))
def test_one_trace_for_equal_shapes(backbone, method):
    assert trained(backbone, method)[2] == 1


@pytest.mark.parametrize(("backbone", "method"), cases.marked(cases.KEY_PAIRS))
def test_keep_is_what_the_whole_layer_would_return(backbone, method):
    parts = cases.make(backbone, method)

    @jax.jit
    def differences(images):
        model = merge(*parts)
        ctx = dataclasses.replace(EVALUATION, hook=model.method.tap)
        state = model.method.start(model.backbone, images, ctx)
        out = []
        for site, layer in zip(model.backbone.sites, model.backbone.layers, strict=True):
            whole = model.method.step(layer, state, ctx.at(site.index))
            if site.has_attention:
                first = tokens_of(
                    model.method.step(layer, state, ctx.at(site.index, num_outputs=2))
                )
                assert first.x.shape[1] == 2
                out.append(jnp.abs(tokens_of(whole).x[:, :2] - first.x).max())
            state = whole
        return jnp.stack(out)

    if any(site.has_attention for site in merge(*parts).backbone.sites):
        assert differences(prepare(images(), None)).max() < 1e-5


def tokens_of(state):
    return state[0] if isinstance(state, tuple) else state


ON_VIT = [pair for pair in cases.KEY_PAIRS if pair[0] == "vit"]


@pytest.mark.parametrize(("backbone", "method"), cases.marked(ON_VIT))
def test_learns_eight_images_by_heart(backbone, method):
    parts = cases.make(backbone, method)
    optimizer = optax.adam(3e-3 if method in ("full", "msvp") else 3e-2)
    step = make_train_step(parts.graph, optimizer, to_input, 100)
    state = init_state(parts.trainable, parts.stats, optimizer, seed=0)
    for _ in range(100):
        state, numbers = step(state, parts.frozen, batch())
    assert numbers["accuracy"] == 100


@pytest.mark.parametrize("method", cases.TOWERS)
def test_prompts_of_clip_learn(method):
    """Text features of few words cannot tell any images apart, so not by heart."""
    parts = cases.make("clip_towers", method)
    optimizer = optax.adam(3e-2)
    step = make_train_step(parts.graph, optimizer, to_input, 60)
    state = init_state(parts.trainable, parts.stats, optimizer, seed=0)
    losses = []
    for _ in range(60):
        state, numbers = step(state, parts.frozen, batch())
        losses.append(float(numbers["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_masked_images_do_not_count():
    parts = cases.make("vit", "vpt_deep")
    optimizer = optax.sgd(0.1)
    step = make_train_step(parts.graph, optimizer, to_input, 1)
    full = batch()
    masked = full | {"mask": np.arange(BATCH) < 5}
    masked["label"] = np.where(masked["mask"], full["label"], 0).astype(np.int32)
    few = {k: v[:5] for k, v in full.items()}
    a, _ = step(init_state(parts.trainable, parts.stats, optimizer, 0), parts.frozen, masked)
    b, _ = step(init_state(parts.trainable, parts.stats, optimizer, 0), parts.frozen, few)
    for name, value in a.trainable.items():
        np.testing.assert_allclose(value, b.trainable[name], atol=1e-6, err_msg=name)


def test_the_compiled_step_sums_gradients_once():
    parts = cases.make("vit", "vpt_deep")
    optimizer = optax.sgd(0.1)
    mesh = sharding.make_mesh(8)
    state = sharding.replicate(init_state(parts.trainable, parts.stats, optimizer, 0), mesh)
    frozen = sharding.replicate(parts.frozen, mesh)
    step = make_train_step(parts.graph, optimizer, to_input, 1)
    text = step.lower(state, frozen, sharding.put_batch(batch(), mesh)).compile().as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") in (1, 2)
    assert "all-to-all" not in text
    assert "collective-permute" not in text
    assert "all-gather" not in text


def test_rematerialised_dropout_draws_the_same_masks():
    parts = cases.make("vit", "vpt_deep_dropout")
    x = prepare(images(), None)
    a = cases.outputs(parts, x, Context(key=jax.random.key(1)))["logits"]
    b = cases.outputs(parts, x, Context(key=jax.random.key(1)), remat="full")["logits"]
    c = cases.outputs(parts, x, Context(key=jax.random.key(2)))["logits"]
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(a - c).max() > 1e-3
