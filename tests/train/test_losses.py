"""Losses, class weights, and what an evaluation counts; recorded numbers are in tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.cases import CLASSES, make, outputs
from vpjax.core.errors import UserError
from vpjax.runs import defaults
from vpjax.train import losses, optim, step
from vpjax.train.evaluate import evaluate, make_eval_step
from vpjax.train.schedules import Plan
from vpjax.train.sharding import make_mesh, replicate

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 16, 16, 3), np.uint8)
LABELS = RNG.integers(0, CLASSES, 24).astype(np.int32)
TARGETS = RNG.integers(0, 2, (24, CLASSES)).astype(np.int32)
WEIGHTS = np.array([0.5, 2, 1, 0, 1.5], np.float32)


def prepare(images, key):
    return images / 127.5 - 1


def to_input(batch, key):
    return prepare(batch["image"], key)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_by_their_formulas(weights):
    x = RNG.normal(size=(24, CLASSES)).astype(np.float32)
    w = np.ones(CLASSES) if weights is None else weights
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    found = losses.criterion("softmax", weights)(jnp.asarray(x), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, -w[LABELS] * log_p[np.arange(24), LABELS], rtol=1e-5)

    p = 1 / (1 + np.exp(-x))
    for labels, targets in ((LABELS, np.eye(CLASSES)[LABELS]), (TARGETS, TARGETS)):
        terms = -np.where(targets == 1, np.log(p), np.log(1 - p)) * w
        found = losses.criterion("sigmoid", weights)(jnp.asarray(x), jnp.asarray(labels))
        np.testing.assert_allclose(found, terms.sum(1), rtol=1e-5)


def test_class_weights_are_powers_of_counts_that_sum_to_the_classes():
    counts = np.array([1, 4, 16])
    np.testing.assert_allclose(
        losses.class_weights(counts, "inv"), np.array([16, 4, 1]) / 7, rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.class_weights(counts, "inv_sqrt"), np.array([4, 2, 1]) * 3 / 7, rtol=1e-6
    )
    assert losses.class_weights(counts, "none") is None
    with pytest.raises(UserError, match="Did you mean 'inv_sqrt'"):
        losses.class_weights(counts, "inv_sqr")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any))
def test_a_class_without_images_weighs_nothing(counts):
    for kind in ("inv", "inv_sqrt"):
        weights = losses.class_weights(np.array(counts), kind)
        assert ((weights > 0) == (np.array(counts) > 0)).all()
        assert weights.sum() == pytest.approx(len(counts), rel=1e-5)


def trained(criterion, labels, mask=None):
    """One step of SGD with rate 1; returns the numbers and how far each parameter moved."""
    parts = make("vit", "linear")
    config = defaults.get_config().optim
    config.update(lr=1.0, lr_base_batch_size=0, warmup_epochs=0.0, schedule="constant")
    config.update(name="sgd", momentum=0.0, weight_decay=0.0)
    optimizer, _ = optim.make_optimizer(optim.Settings(**config), parts.trainable, Plan(10, 1, 24))
    state = step.init_state(parts.trainable, parts.stats, optimizer, 0)
    call = step.make_train_step(parts.graph, optimizer, to_input, 10, criterion=criterion)
    mask = np.ones(24, bool) if mask is None else mask
    state, numbers = call(state, parts.frozen, {"image": IMAGES, "label": labels, "mask": mask})
    moved = {n: np.asarray(state.trainable[n] - v) for n, v in parts.trainable.items()}
    return jax.device_get(numbers), moved


def test_the_weighted_mean_divides_by_images_and_reaches_the_gradient():
    parts = make("vit", "linear")
    mask = np.arange(24) < 20
    numbers, moved = trained(losses.criterion("softmax", WEIGHTS), LABELS, mask)
    logits = np.asarray(outputs(parts, prepare(jnp.asarray(IMAGES), None))["logits"])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    w, real = WEIGHTS[LABELS], mask
    loss = -(w * np.log(p[np.arange(24), LABELS]))[real].sum() / 20
    assert numbers["loss"] == pytest.approx(loss, rel=1e-5)
    slope = (w[:, None] * (p - np.eye(CLASSES)[LABELS]))[real].sum(0) / 20
    np.testing.assert_allclose(moved["method/head/bias"], -slope, atol=1e-5)
    assert numbers["accuracy"] == pytest.approx(100 * (logits.argmax(1) == LABELS)[real].mean())


def test_several_classes_an_image_train_without_an_accuracy():
    numbers, moved = trained(losses.criterion("sigmoid"), TARGETS)
    assert numbers.keys() == {"loss", "grad_norm", "images"}
    assert np.abs(moved["method/head/bias"]).min() > 0


def measured(labels, size, devices, criterion=losses.softmax):
    """Evaluates 21 of the images in batches with padding that would show."""
    parts = make("vit", "linear")
    if size != CLASSES:
        parts = parts._replace(trainable={n: v[..., :size] for n, v in parts.trainable.items()})
    mesh = make_mesh(devices)
    weights = {"trainable": parts.trainable, "stats": parts.stats}
    weights, frozen = replicate(weights, mesh), replicate(parts.frozen, mesh)
    batches = [
        {"image": IMAGES[i : i + 8], "label": labels[i : i + 8], "mask": np.arange(i, i + 8) < 21}
        for i in (0, 8, 16)
    ]
    eval_step = make_eval_step(parts.graph, to_input, criterion)
    return evaluate(eval_step, weights, frozen, batches, mesh)[0]


def logits_of(size):
    parts = make("vit", "linear")
    logits = outputs(parts, prepare(jnp.asarray(IMAGES), None))["logits"]
    return np.asarray(logits, np.float64)[:21, :size]


@pytest.mark.parametrize("devices", [1, 8])
def test_numbers_of_one_class_an_image(devices):
    found = measured(LABELS, CLASSES, devices)
    logits, labels = logits_of(CLASSES), LABELS[:21]
    right = logits.argmax(1) == labels
    of_class = [right[labels == c].mean() for c in np.unique(labels)]
    assert found.keys() == {"accuracy", "loss", "count", "top5", "mean_class_accuracy"}
    assert found["count"] == 21
    assert found["accuracy"] == pytest.approx(100 * right.mean())
    assert found["mean_class_accuracy"] == pytest.approx(100 * np.mean(of_class))
    assert found["top5"] == pytest.approx(100)  # of five classes
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_p[np.arange(21), labels].mean(), rel=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_numbers_of_two_classes(devices):
    found = measured(LABELS % 2, 2, devices)
    logits, labels = logits_of(2), LABELS[:21] % 2
    gap = logits[:, 1] - logits[:, 0]
    pairs = np.sign(gap[labels == 1][:, None] - gap[labels == 0][None]) / 2 + 0.5
    assert found.keys() == {"accuracy", "loss", "count", "mean_class_accuracy", "auc"}
    assert found["auc"] == pytest.approx(100 * pairs.mean())
    assert found["accuracy"] == pytest.approx(100 * ((gap > 0) == labels).mean())
    assert "auc" not in measured(np.zeros(24, np.int32), 2, devices)


@pytest.mark.parametrize("devices", [1, 8])
def test_numbers_of_several_classes_an_image(devices):
    found = measured(TARGETS, CLASSES, devices, losses.sigmoid)
    logits, targets = logits_of(CLASSES), TARGETS[:21]
    of_class = []
    for x, t in zip(logits.T, targets.T, strict=True):
        t = t[np.argsort(-x)]
        of_class.append((np.cumsum(t) / np.arange(1, 22))[t == 1].mean())
    assert found["map"] == pytest.approx(100 * np.mean(of_class))
    assert found["count"] == 21
    assert 0.5 <= found["threshold"] < 1
    said = logits >= np.log(found["threshold"] / (1 - found["threshold"]))
    micro = 2 * (said & (targets == 1)).sum() / (said.sum() + targets.sum())
    assert found["f1_micro"] == pytest.approx(100 * micro)
    terms = np.logaddexp(0, logits) - logits * targets
    assert found["loss"] == pytest.approx(terms.sum(1).mean(), rel=1e-5)
    with pytest.raises(UserError, match="no image of the split has a label"):
        measured(np.zeros_like(TARGETS), CLASSES, devices, losses.sigmoid)


def test_smoothing_gives_a_share_to_every_class():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, CLASSES)), np.arange(6) % CLASSES
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.8 * np.eye(CLASSES)[labels] + 0.2 / CLASSES
    found = losses.criterion("softmax", WEIGHTS, 0.2)(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, -(targets * log_p).sum(1) * WEIGHTS[labels], rtol=1e-5)
    for name, smoothing, match in (("sigmoid", 0.1, "softmax"), ("softmax", -0.1, r"\[0, 1\)")):
        with pytest.raises(UserError, match=match):
            losses.criterion(name, None, smoothing)
