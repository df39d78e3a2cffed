"""E2VPT, VFPT, Gate-VPT, SPT, DA-VPT and CVPT beyond their recorded cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import cases
from tests.helpers.cases import tiny_mae, tiny_vit
from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.methods.class_groups import ClassGroups
from vpjax.methods.cvpt import CVPT
from vpjax.methods.da_vpt import DAVPT
from vpjax.methods.e2vpt import E2VPT, kept
from vpjax.methods.gate_vpt import GateVPT
from vpjax.methods.proxy_metric import metric
from vpjax.methods.spt import SPT, chosen
from vpjax.methods.vfpt import VFPT
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.nn.context import Context
from vpjax.nn.kmeans import kmeans
from vpjax.runs import defaults
from vpjax.studies import prune
from vpjax.train.step import init_state, make_train_step

COUNTS = [
    (E2VPT, {"num_tokens": 5, "num_kv_tokens": 5}, 92_160),
    (E2VPT, {"num_tokens": 5, "num_kv_tokens": 5, "share_kv": False}, 138_240),
    (E2VPT, {"num_tokens": 5, "num_kv_tokens": 5, "masks": True}, 92_160 + 5 + 80),
    (E2VPT, {"num_tokens": 5, "num_kv_tokens": 5, "pruned_tokens": (1,)}, 92_160),
    (GateVPT, {"num_tokens": 100}, 76_800 + 11 + 12),
    (VFPT, {"num_tokens": 10}, 92_160),
    (SPT, {"num_tokens": 20}, 184_320),
    (SPT, {"num_tokens": 100, "deep": False}, 76_800),
    (DAVPT, {"first_guided": 10}, 768 * (10 * 20 + 2 * 10)),
    (CVPT, {"num_tokens": 10}, 92_160),
]


@pytest.mark.parametrize(("cls", "options", "expected"), COUNTS)
def test_counts_of_vit_b16(cls, options, expected):
    def make():
        body = ViT("B/16", 224, rngs=nnx.Rngs(0))
        return partition(Model(body, cls(body, 200, rngs=nnx.Rngs(1), **options))).trainable

    sizes = {n: v.size for n, v in jax.eval_shape(make).items()}
    head = 768 * 200 + 200
    assert sum(sizes.values()) == expected + head


NEUTRAL = [
    (E2VPT, {"num_kv_tokens": 0}),
    (VFPT, {"fourier_share": 0.0}),
    (VFPT, {"fourier_share": 0.3}),  # of 3 prompts: none
    (DAVPT, {"num_proxies": 3, "patch_weight": 0.0, "class_weight": 0.0}),
]


@pytest.mark.parametrize(("cls", "options"), NEUTRAL)
def test_neutral_options_are_vpt(cls, options):
    body, images = tiny_vit(nnx.Rngs(0)), jnp.ones((2, 16, 16, 3))
    usual = {"num_tokens": 3, "head_init": "normal", "rngs": nnx.Rngs(1)}
    plain, ours = VPT(body, 5, **usual), cls(body, 5, **usual, **options)
    ours.prompts, ours.head = plain.prompts, plain.head
    outs = [jax.jit(lambda m, x: m(x)["logits"])(Model(body, m), images) for m in (plain, ours)]
    np.testing.assert_allclose(*outs, atol=1e-6)


def test_open_gates_are_shallow_vpt():
    body, images = tiny_vit(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    usual = {"num_tokens": 3, "head_init": "normal", "rngs": nnx.Rngs(1)}
    plain, ours = VPT(body, 5, deep=False, **usual), GateVPT(body, 5, gate_init=-50.0, **usual)
    ours.prompts, ours.head = plain.prompts["0"], plain.head
    outs = [jax.jit(lambda m, x: m(x)["logits"])(Model(body, m), images) for m in (plain, ours)]
    np.testing.assert_allclose(*outs, atol=1e-6)


REFUSED = [
    (E2VPT, {"pieces": 5, "masks": True}, "pieces is 5"),
    (E2VPT, {"num_tokens": 3, "pruned_tokens": (3,)}, "pruned_tokens has 3"),
    (E2VPT, {"kv_init": "kaimin"}, "kaiming"),
    (VFPT, {"fourier_dimension": "channels"}, "fourier_dimension"),
    (VFPT, {"fourier_location": "random"}, "fourier_location"),
    (VFPT, {"fourier_share": 1.5}, "fourier_share is 1.5"),
    (GateVPT, {"num_gates": 3}, "num_gates is 3"),
    (GateVPT, {"temperature_min": 2.0}, "bounds 2.0 and 10.0"),
    (SPT, {"sample": "mean_pooling", "num_tokens": 1}, "num_tokens is 1"),
    (SPT, {"projection_dim": 4}, "projection_dim"),
    (CVPT, {"insert": 6}, "insert is 6"),
    (DAVPT, {"first_guided": 2}, "guided layers 2 to 1"),
    (DAVPT, {"biases": ("vv",)}, "biases"),
]


@pytest.mark.parametrize(("cls", "options", "match"), REFUSED)
def test_options_that_are_refused(cls, options, match):
    with pytest.raises(UserError, match=match):
        cls(tiny_vit(nnx.Rngs(0)), 5, **options, rngs=nnx.Rngs(1))


UNSUITED = [
    (body, method)
    for body in cases.BACKBONES
    for method in cases.ON_VIT
    if method not in cases.SUITED[body] and body not in ("vit_wide", "clip_towers")
]


@functools.cache
def shape_of(body):
    return nnx.eval_shape(lambda: cases.BACKBONES[body](nnx.Rngs(0)))


@pytest.mark.parametrize(("body", "method"), UNSUITED)
def test_backbones_that_do_not_suit_are_refused_in_a_sentence(body, method):
    cls, options = cases.METHODS[method]
    backbone = shape_of(body)
    with pytest.raises(UserError) as error:
        cls(backbone, 5, **options, rngs=nnx.Rngs(1))
    text = str(error.value)
    assert type(backbone).__name__ in text and text.count(". ") + text.endswith(".") == 1
    assert ("vpt.VPT" if body.startswith("swin") else "vpt_input.Pad") in text


def test_a_vit_without_a_class_token_has_none_to_guide():
    sizes = {"dim": 16, "mlp_dim": 24, "heads": 2, "depth": 2, "class_token": False}
    body = ViT("Ti/4", 16, **sizes, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="DA-VPT needs a class token .* use vpt.VPT"):
        DAVPT(body, 5, rngs=nnx.Rngs(1))


def test_masks_train_until_something_is_pruned():
    body = tiny_mae(nnx.Rngs(0))
    free = E2VPT(body, 5, num_tokens=3, masks=True, pieces=4, rngs=nnx.Rngs(1))
    fixed = E2VPT(body, 5, num_tokens=3, masks=True, pieces=4, pruned_pieces=(5,), rngs=nnx.Rngs(1))
    names = [partition(Model(body, m)).trainable for m in (free, fixed)]
    assert names[0].keys() - names[1].keys() == {"method/token_mask", "method/piece_mask"}
    assert kept("x", (1, 2), 4).tolist() == [1, 0, 0, 1]


def test_self_prompts_start_as_tokens_of_the_images():
    body = tiny_vit(nnx.Rngs(0))
    method = SPT(body, 5, num_tokens=3, sample_images=4, rngs=nnx.Rngs(1))
    numbers = method.choose_images(np.zeros(9, int), np.random.default_rng(0))
    assert len(numbers) == 4 and set(numbers) <= set(range(9))
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    made = jax.jit(lambda x: method.start_values(body, x, jnp.zeros(4), jax.random.key(1)))(images)
    assert made.keys() == {"prompts/0", "prompts/1"}
    patches = np.asarray(body.patch_embed(images)).reshape(-1, 16)
    for row in np.asarray(made["prompts/0"]):
        assert np.abs(patches - row).max(1).min() < 1e-5


def test_centres_of_self_prompts_are_means():
    tokens = jnp.array([[[0.0], [1.0], [10.0]], [[11.0], [0.5], [10.5]]])
    noise = lambda n: jnp.arange(n, dtype=jnp.float32)  # noqa: E731
    found = chosen(tokens, 2, "kmeans", noise)
    np.testing.assert_allclose(sorted(found.ravel()), [0.5, 10.5], atol=1e-6)


def test_kmeans_by_angle_ignores_length():
    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [9.0, 0.5], [0.1, 3.0]])
    assert kmeans(x, 2, cosine=True)[1].tolist() == [0, 1, 0, 1]


def test_mapping_puts_every_class_to_a_prompt():
    body = tiny_vit(nnx.Rngs(0))
    method = DAVPT(body, 5, num_proxies=2, rngs=nnx.Rngs(1))
    labels = np.arange(30) % 5
    numbers = method.choose_images(labels, np.random.default_rng(0))
    assert np.bincount(labels[numbers]).tolist() == [6] * 5
    images = jax.random.normal(jax.random.key(0), (10, 16, 16, 3))
    values = lambda x, y: method.start_values(body, x, y, jax.random.key(1))  # noqa: E731
    mapping = jax.jit(values)(images, jnp.arange(10) % 5)["groups/of_class"]
    assert mapping.shape == (5,) and set(np.asarray(mapping)) <= {0, 1}


def test_groups_follow_training_from_an_epoch_on():
    groups = ClassGroups(4, 2, 2, regroup_from=1)
    groups.of_class[...] = jnp.array([0.0, 0.0, 1.0, 1.0])
    groups.centres[...] = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    far, near = jnp.array([[2.0, 0.0], [3.0, 1.0]]), jnp.array([[0.0, 2.0], [1.0, 3.0]])
    features = jnp.stack([far[0], near[0], far[1], near[1]])  # classes 0 and 2 are alike
    labels, real = jnp.arange(4), jnp.ones(4, bool)

    @nnx.jit
    def follow(groups, epoch, real):
        groups.follow(features, labels, real, Context(key=jax.random.key(0), epoch=epoch))

    for epoch in (0.0, 0.5, 1.0, 1.5):  # nothing is grouped by what epoch 0 saw
        follow(groups, epoch, real)
        assert groups.of_class[...].tolist() == [0, 0, 1, 1]
    follow(groups, 2.0, real & (labels < 3))
    assert groups.of_class[...].tolist() == [0, 1, 0, 1]
    assert groups.seen[...].tolist() == [1, 1, 1, 0]


def test_as_many_prompts_as_classes_need_no_groups():
    body = tiny_vit(nnx.Rngs(0))
    method = DAVPT(body, 3, num_proxies=9, regroup_from=0, rngs=nnx.Rngs(1))
    nothing = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1), jax.random.key(0)
    assert method.start_values(body, *nothing) == {}
    assert method.groups.of(jnp.array([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    small = DAVPT(body, 3, init_divide_by8=True, rngs=nnx.Rngs(1)).prompts["0"][...]
    np.testing.assert_allclose(8 * small, method.prompts["0"][...], rtol=1e-6)


def test_several_classes_an_image_are_refused():
    method = DAVPT(tiny_vit(nnx.Rngs(0)), 3, rngs=nnx.Rngs(1))
    with pytest.raises(UserError, match="one class an image"):
        method.choose_images(np.zeros((4, 3), int), np.random.default_rng(0))


def test_temperatures_are_cut_to_their_bounds_after_a_step():
    body = tiny_vit(nnx.Rngs(0))
    bounds = {"temperature_min": 0.999, "temperature_max": 1.001}
    parts = partition(Model(body, GateVPT(body, 5, **bounds, head_init="normal", rngs=nnx.Rngs(1))))
    step = make_train_step(parts.graph, optax.sgd(1e3), lambda b, key: b["image"], 1)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    batch = {"image": images, "label": np.arange(4), "mask": np.ones(4, bool)}
    state = init_state(parts.trainable, parts.stats, optax.sgd(1e3), 0)
    values = np.asarray(step(state, parts.frozen, batch)[0].trainable["method/temperatures"])
    assert np.isin(values, np.float32([0.999, 1.001])).all()


@pytest.mark.parametrize("criterion", ["anchor", "nca"])
def test_metric_ignores_padding_and_stays_finite(criterion):
    s = jnp.array([[5.0, -5.0], [4.0, 3.0], [9.0, 9.0]])
    own = jnp.array([[True, False], [True, False], [False, True]])
    margins = criterion, 32.0, 32.0, 0.1, -0.1
    real = jnp.array([True, True, False])
    loss = jax.jit(lambda *a: metric(*a, *margins))
    few = loss(s[:2], own[:2], real[:2])
    np.testing.assert_allclose(loss(s, own, real), few, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda s: metric(s, own, real, *margins)))(s)
    assert np.isfinite(slope).all() and not np.asarray(slope[2]).any()


def test_pruning_ends_at_the_limit():
    percents = defaults.get_config().study.prune.percents
    assert prune.counts(10, 1, percents) == list(range(1, 10))
    assert prune.counts(8, 4, percents) == [0, 1, 2, 3, 4, 4, 4]
    assert prune.masks(np.array([2.0, 1.0, 1.0]), [0, 1, 2]).tolist() == [
        [1, 1, 1],
        [1, 0, 1],
        [1, 0, 0],
    ]
