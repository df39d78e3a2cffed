"""Mixup and cutmix: shares, boxes, and losses that are those of mixed targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.runs.experiment import check
from vpjax.train import losses
from vpjax.train.mixing import box, make_mix, mix, mixed_criterion

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8, 10, 3)), jnp.float32)
ONES = jnp.ones(6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_mixed_target(smoothing):
    draw = np.random.default_rng(1)
    logits, labels = jnp.asarray(draw.standard_normal((6, 4))), jnp.array([0, 3, 1, 2, 2, 0])
    share = jnp.asarray(draw.uniform(size=6))
    criterion = functools.partial(losses.softmax, smoothing=smoothing)
    own = jax.nn.one_hot(labels, 4) * (1 - smoothing) + smoothing / 4
    target = own * share[:, None] + own[::-1] * (1 - share[:, None])
    expected = optax.softmax_cross_entropy(logits, target)
    found = mixed_criterion(criterion, share)(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_loss_of_several_classes():
    draw = np.random.default_rng(1)
    logits = jnp.asarray(draw.standard_normal((6, 4)))
    labels = jnp.asarray(draw.integers(0, 2, (6, 4)))
    target = 0.3 * labels + 0.7 * labels[::-1]
    found = mixed_criterion(losses.sigmoid, jnp.full(6, 0.3))(logits, labels)
    np.testing.assert_allclose(found, losses.sigmoid(logits, target), rtol=1e-5)


def test_mixup_is_a_mean_of_two():
    mixed, share = mix(IMAGES, ONES, jax.random.key(3), 0.4, 0.0)
    assert len(set(share.tolist())) == 1 and 0 < share[0] < 1
    np.testing.assert_allclose(mixed, share[0] * IMAGES + (1 - share[0]) * IMAGES[::-1], atol=1e-6)


def test_cutmix_takes_a_box_of_the_other_image():
    for seed in range(5):
        mixed, share = mix(IMAGES, ONES, jax.random.key(seed), 0.0, 1.0)
        own = np.all(np.asarray(mixed == IMAGES), axis=-1)
        other = np.all(np.asarray(mixed == IMAGES[::-1]), axis=-1)
        assert np.all(own | other) and np.all(own == own[0])
        np.testing.assert_allclose(own.mean((1, 2)), share, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_of_a_beta_distribution(alpha):
    keys = jax.random.split(jax.random.key(0), 3000)
    shares = jax.vmap(lambda key: mix(IMAGES[:2], ONES[:2], key, alpha, 0.0)[1][0])(keys)
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(variance, rel=0.08)


def test_boxes_are_those_of_the_paper():
    """Centre anywhere, edges of sqrt(1 - share), cut off at the border: as numpy counts them."""
    keys, share, draw = jax.random.split(jax.random.key(1), 1500), 0.6, np.random.default_rng(0)
    left = jax.vmap(lambda key: box(key, (20, 30), jnp.float32(share))[1])(keys)
    heights, widths = (int(edge * np.sqrt(1 - share)) for edge in (20, 30))
    areas = []
    for _ in range(1500):
        cut = 1
        for length, edge in ((heights, 20), (widths, 30)):
            centre = draw.integers(edge)
            low, high = np.clip([centre - length // 2, centre + (length + 1) // 2], 0, edge)
            cut *= high - low
        areas.append(1 - cut / 600)
    assert left.mean() == pytest.approx(np.mean(areas), abs=0.01)
    assert left.std() == pytest.approx(np.std(areas), abs=0.01)
    assert left.min() == pytest.approx(min(areas), abs=1e-5)


def test_both_take_turns():
    kinds = []
    for seed in range(40):
        mixed, _ = mix(IMAGES[:2], ONES[:2], jax.random.key(seed), 1.0, 1.0)
        kinds.append(bool(np.isin(np.asarray(mixed), np.asarray(IMAGES)).all()))
    assert 10 < sum(kinds) < 30


def test_padding_is_mixed_with_nothing():
    weight = jnp.array([1.0, 1, 1, 1, 0, 0])
    mixed, share = mix(IMAGES, weight, jax.random.key(0), 1.0, 0.0)
    np.testing.assert_array_equal(mixed[:2], IMAGES[:2])
    np.testing.assert_array_equal(share[:2], 1.0)
    assert np.all(share[2:4] < 1)


def test_what_a_config_may_say():
    assert make_mix() is None and make_mix(0.2, 0.0) is not None
    with pytest.raises(UserError, match="train.mixup is -1"):
        make_mix(-1.0)
    check(runs.config("vpt_deep", train={"mixup": 0.8, "cutmix": 1.0}))
    with pytest.raises(UserError, match="mop.* has a loss of its own"):
        config = runs.config("vpt_deep", train={"mixup": 0.8})
        config.method.name = "mop.MoP"
        check(config)


def test_a_run_with_all_of_it(tmp_path):
    words = ["--config=configs/digits.py:vpt_deep", "--config.train.mixup=0.8"]
    words += ["--config.train.cutmix=1.0", "--config.train.label_smoothing=0.1"]
    words += ["--config.data.augment=random_resized_crop=0.5/1,rand_augment=5/1,flip"]
    words += ["--config.train.steps=3", "--config.curves=False", f"--workdir={tmp_path / 'run'}"]
    done = runs.command(*words)
    assert done.returncode == 0, done.stderr_text
    said = "bilinear,random_resized_crop=0.5/1,rand_augment=5/1,flip,mean=0.5,std=0.5"
    assert said in (tmp_path / "run" / "result.json").read_text()
