"""Zero-shot CLIP, CLIP-Adapter and Tip-Adapter: identities, counts, the cache, the search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import cases
from vpjax.backbones.clip import CLIP
from vpjax.core.errors import UserError
from vpjax.methods.clip_adapter import CLIPAdapter
from vpjax.methods.tip_adapter import TipAdapter, TipAdapterF
from vpjax.methods.zero_shot import ZeroShot
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.mop_similarity import unit

DIM, CLASSES, SHOTS = 12, 5, 3


@pytest.fixture(scope="module")
def body():
    return cases.tiny_clip(nnx.Rngs(0))


def features(count=20, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, DIM)), jnp.float32)


def made(cls, body, **options):
    options |= {"shots": SHOTS} if issubclass(cls, TipAdapter) and "shots" not in options else {}
    method = cls(body, CLASSES, rngs=nnx.Rngs(1), **options)
    if isinstance(method, TipAdapter):  # as if its cache held images
        method.filled[...] = jnp.ones(method.filled.shape)
    return method


def filled(body, tip, labels, seed=3):
    found = tip.start_values(
        body, features(len(labels), seed), jnp.asarray(labels), jax.random.key(0)
    )
    for name, value in found.items():
        getattr(tip, name)[...] = value
    return tip


def zero_shot(body, other):
    plain = made(ZeroShot, body)
    plain.text[...] = other.text[...]
    return plain.classify(features(), EVALUATION)["logits"]


@pytest.mark.parametrize(
    ("cls", "options"),
    [(CLIPAdapter, {"ratio": 0.0}), (TipAdapter, {"alpha": 0.0}), (TipAdapterF, {"alpha": 0.0})],
)
def test_without_its_share_a_method_is_zero_shot_clip(body, cls, options):
    method = made(cls, body, **options)
    ours = method.classify(features(), EVALUATION)["logits"]
    np.testing.assert_allclose(ours, zero_shot(body, method), rtol=1e-6, atol=1e-5)
    with_it = made(cls, body).classify(features(), EVALUATION)["logits"]
    assert np.abs(with_it - ours).max() > 0.01


def test_a_cache_without_images_is_zero_shot_clip(body):
    tip = TipAdapter(body, CLASSES, shots=SHOTS, rngs=nnx.Rngs(1))
    ours = tip.classify(features(), EVALUATION)["logits"]
    np.testing.assert_allclose(ours, zero_shot(body, tip), rtol=1e-6, atol=1e-5)


def test_the_scale_is_that_of_the_weights(body):
    for cls, options in ((ZeroShot, {}), (CLIPAdapter, {}), (TipAdapter, {"logit_scale": 0.0})):
        method = made(cls, body, **options | ({"alpha": 0.0} if cls is TipAdapter else {}))
        before = method.classify(features(), EVALUATION)["logits"]
        method.scale[...] = jnp.float32(14.0)
        after = method.classify(features(), EVALUATION)["logits"]
        np.testing.assert_allclose(after, before * 0.14, rtol=1e-5, atol=1e-6)
    tip = made(TipAdapter, body)  # published with 100, whatever the weights say
    before = tip.classify(features(), EVALUATION)["logits"]
    tip.scale[...] = jnp.float32(14.0)
    np.testing.assert_array_equal(tip.classify(features(), EVALUATION)["logits"], before)


@pytest.mark.parametrize(("dim", "expected"), [(512, 131_072), (1024, 524_288)])
def test_parameters_of_the_adapter(dim, expected):
    assert counted(CLIPAdapter, dim, 10) == expected


def test_parameters_of_the_cache():
    assert counted(TipAdapterF, 512, 100, shots=16) == 100 * 16 * 512
    assert counted(TipAdapter, 512, 100, shots=16) == counted(ZeroShot, 512, 100) == 0


def counted(cls, dim, classes, **options):
    def make():
        sizes = {"patch_size": 16, "dim": 8, "mlp_dim": 8, "heads": 1, "depth": 1}
        body = CLIP("B/16", 32, **sizes, joint_dim=dim, rngs=nnx.Rngs(0))
        return cls(body, classes, rngs=nnx.Rngs(0), **options)

    state = nnx.state(nnx.eval_shape(make), nnx.Param)
    return sum(v.size for v in jax.tree.leaves(state))


@pytest.mark.parametrize("method", cases.WITH_TEXTS)
@pytest.mark.parametrize("backbone", ["vit", "resnet"])
def test_other_backbones_are_refused_in_one_sentence(backbone, method):
    cls, options = cases.METHODS[method]
    other = cases.BACKBONES[backbone](nnx.Rngs(0))
    with pytest.raises(UserError, match="needs a CLIP.*set backbone.name='clip.CLIP'") as e:
        cls(other, CLASSES, rngs=nnx.Rngs(0), **options)
    assert "\n" not in str(e.value) and ". " not in str(e.value)


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (CLIPAdapter, {"ratio": 1.5}, "ratio is 1.5"),
        (CLIPAdapter, {"reduction": 13}, "reduction is 13; expected 1 to 12"),
        (CLIPAdapter, {"reduction": 0}, "reduction is 0"),
        (TipAdapter, {"shots": 0}, "Set data.shots"),
        (TipAdapter, {"shots": None}, "Set data.shots"),
        (TipAdapter, {"passes": 0}, "passes is 0"),
        (TipAdapterF, {"search_scale": (7.0, 0.1)}, "search_scale"),
    ],
)
def test_options_out_of_range(body, cls, options, match):
    with pytest.raises(UserError, match=match):
        made(cls, body, **options)


def test_a_cache_with_places_that_are_empty(body):
    """A class without images, the last one even, and one with fewer than the others."""
    labels = np.array([2, 0, 2, 1, 0, 2])
    tip = filled(body, made(TipAdapter, body), labels)
    assert tip.filled[...].sum(1).tolist() == [2, 1, 3, 0, 0]
    rows = unit(features(len(labels), 3))
    np.testing.assert_allclose(tip.keys[0, :2], rows[np.array([1, 4])], atol=1e-6)
    out = tip.classify(features(), EVALUATION)
    values = np.eye(CLASSES)[labels]
    affinity = unit(features()) @ rows.T
    np.testing.assert_allclose(out["cache"], np.exp(-(1 - affinity)) @ values, atol=1e-5)
    assert not out["cache"][:, 3:].any()


def test_images_of_the_cache(body):
    tip = made(TipAdapter, body)
    chosen = tip.choose_images(np.array([1, 1, 0, 1]), np.random.default_rng(0))
    assert chosen.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="3 places a class.*class 1 has 4.*Set data.shots=3"):
        tip.choose_images(np.array([1, 1, 0, 1, 1]), np.random.default_rng(0))
    with pytest.raises(UserError, match="needs one class an image"):
        tip.choose_images(np.zeros((3, CLASSES), int), np.random.default_rng(0))


def test_training_uses_the_numbers_of_before_the_search(body):
    tip = filled(body, made(TipAdapterF, body), np.arange(CLASSES))
    before = tip.classify(features(), EVALUATION)["logits"]
    tip.alpha[...], tip.beta[...] = jnp.float32(9.0), jnp.float32(3.0)
    assert np.abs(tip.classify(features(), EVALUATION)["logits"] - before).max() > 0.1
    training = tip.classify(features(), Context(key=jax.random.key(0)))["logits"]
    np.testing.assert_array_equal(training, before)


@pytest.mark.parametrize("count", [7, 128, 150])
def test_the_search_is_the_published_loop(body, count):
    """Also for numbers of images that fill no chunk."""
    options = {"search_scale": (9.0, 4.0), "search_steps": (13, 6)}
    tip = filled(body, made(TipAdapter, body, **options), np.arange(CLASSES).repeat(SHOTS))
    f, labels = features(count, 5), np.random.default_rng(6).integers(0, CLASSES, count)
    ours = jax.jit(tip.search)(f, jnp.asarray(labels))
    best, beta, alpha = 0, 0, 0
    unit_f = np.asarray(unit(f), np.float64)
    texts = 100 * unit_f @ np.asarray(tip.text[...], np.float64).T
    affinity = np.einsum("bd,ckd->bck", unit_f, np.asarray(tip.keys[...], np.float64))
    for i in range(13):
        for j in range(6):
            b, a = 0.1 + i * (9 - 0.1) / 13, 0.1 + j * (4 - 0.1) / 6
            logits = texts + a * np.exp(-b * (1 - affinity)).sum(-1)
            right = (logits.argmax(-1) == labels).sum()
            if right > best:
                best, beta, alpha = right, b, a
    np.testing.assert_allclose([ours["beta"], ours["alpha"]], [beta, alpha], rtol=1e-5)


def test_a_search_that_finds_nothing_right(body):
    tip = filled(body, made(TipAdapter, body), np.zeros(2, int))
    found = tip.search(features(4), jnp.full(4, CLASSES))  # labels that no image can have
    assert float(found["alpha"]) == float(found["beta"]) == 0
