"""Similarities of images to K sub-prompts a class, for any number of classes.

    p_ck     = (t_c + o_ck) / |t_c + o_ck|     t: text features C D,  o: offsets C K D
    max_bc   = max_k <f_b, p_ck>               a class is as similar as its most similar sub-prompt
    label_bk = <f_b, p_yk>                     sub-prompts of the image's own class y

The B C K similarities behind `max` never exist at once: classes are worked through in chunks, of
which the maximum and its index are kept. Of equal sub-prompts the first gets the whole gradient
(jnp.max would share it among all, and equal sub-prompts would stay equal for ever):

    G_ck = sum_b [k = index_bc] g_bc f_b       g: gradient of max
    dL/do_ck = (G_ck - p_ck <p_ck, G_ck>) / |t_c + o_ck|

The backward pass computes no similarity again. Similarities are float32 whatever the backbone
computes in: they are multiplied by 700 before the softmax. On a mesh with the axis "model" the
classes are split over it; what is sent between devices has the size of B C or less.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Integer

CHUNK_SIZE = 2**23  # similarities of a chunk, and elements of its prompts: 32 MB
SOME_IMAGES = 64  # of a batch whose size is not known
HIGHEST = jax.lax.Precision.HIGHEST


def unit(x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """Scale vectors to length 1; zero vectors stay zero."""
    return x * _inverse_norm(x)


def max_similarity(
    features: Float[Array, "B D"],
    offsets: Float[Array, "C K D"],
    text: Float[Array, "C D"],
    chunk: int = 0,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B C"], Integer[Array, "B C"]]:
    """Return each image's largest similarity to each class, and the sub-prompt that has it.

    Args:
        features: of the images, of length 1.
        offsets: of the sub-prompts.
        text: features of the classes; they get no gradient.
        chunk: classes compared at once; 0: as many as make 32 MB of similarities, or of prompts.
        mesh: whose axis "model" the classes are split over, if it has one.
    """
    data, model = PartitionSpec("data"), PartitionSpec("model")
    call = lambda f, o, t: _max_similarity(f, o, t, _chunk_of(chunk, f, o))  # noqa: E731
    call = _split(call, mesh, (data, model, model), PartitionSpec("data", "model"))
    return call(features, offsets, jax.lax.stop_gradient(text))


def label_similarity(
    features: Float[Array, "B D"],
    labels: Int[Array, " B"],
    offsets: Float[Array, "C K D"],
    text: Float[Array, "C D"],
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B K"], Float[Array, "B K K"]]:
    """Return similarities to the sub-prompts of each image's own class, and theirs to each other.

    Args:
        features: of the images, of length 1.
        labels: class of each image.
        offsets: of the sub-prompts.
        text: features of the classes; they get no gradient.
        mesh: whose axis "model" the classes are split over, if it has one.
    """

    def local(f, y, o, t):
        p = unit(t[y][:, None] + o[y])  # B K D
        return _product("bd,bkd->bk", f, p), _product("bkd,bjd->bkj", p, p)

    def one_device(f, y, o, t):
        row = y - len(o) * jax.lax.axis_index("model")
        here = (row >= 0) & (row < len(o))  # whether this device has the image's class
        found = local(f, jnp.clip(row, 0, len(o) - 1), o, t)
        zeroed = (jnp.where(here.reshape(-1, *(1,) * (x.ndim - 1)), x, 0) for x in found)
        return tuple(jax.lax.psum(x, "model") for x in zeroed)

    data, model = PartitionSpec("data"), PartitionSpec("model")
    call = local
    if num_shards(mesh) > 1:
        call = _split(one_device, mesh, (data, data, model, model), data)
    return call(features, labels, offsets, jax.lax.stop_gradient(text))


def assignments(scores: Float[Array, "B K"], tau: Array | float, hard: bool) -> Float[Array, "B K"]:
    """Return how much of each image each sub-prompt of its class gets, summing to 1.

    Args:
        scores: scaled similarities to the sub-prompts of the image's class.
        tau: temperature of the softmax.
        hard: whether the most similar sub-prompt gets all instead.
    """
    if hard:
        return jax.nn.one_hot(scores.argmax(-1), scores.shape[-1])
    return jax.nn.softmax(scores / tau)


def diversity(cosines: Float[Array, "B K K"], count: Array | float) -> Float[Array, " B"]:
    """Return how alike the sub-prompts of each image's class are, a term of the published code.

    A cosine v costs v^8 above 0.7, v^4 above 0.5, v^2 above 0.3, v / 10 above 0.1, else nothing;
    half the mean of v^2, divided by the number of pairs of the batch, is added.

    Args:
        cosines: between the sub-prompts of each image's class.
        count: images of the batch.
    """
    rows, columns = jnp.triu_indices(cosines.shape[-1], 1)
    v = cosines[:, rows, columns]  # B pairs
    pairs = max(1, v.shape[-1])
    bounds = [v > 0.7, v > 0.5, v > 0.3, v > 0.1]
    costs = jnp.select(bounds, [v**8, v**4, v**2, 0.1 * v], 0.0)
    return (costs.sum(-1) + 0.5 * (v**2).sum(-1) / (pairs * count)) / pairs


def negative_entropy(gamma: Float[Array, "B K"]) -> Float[Array, " B"]:
    """Return the negative entropy of each image's assignments `gamma`."""
    return (gamma * jnp.log(gamma + 1e-10)).sum(-1)


def usage_imbalance(
    gamma: Float[Array, "B K"], weight: Float[Array, " B"], threshold: float
) -> Float[Array, ""]:
    """Return how unevenly a batch uses the K sub-prompts, over all classes together.

    The mean of (threshold - usage)^2 over those used less than `threshold`, plus a tenth of the
    mean of (usage - 1 / K)^2.

    Args:
        gamma: assignments of the images.
        weight: of each image, summing to 1.
        threshold: share of the batch that each sub-prompt should get at least.
    """
    usage = (gamma * weight[:, None]).sum(0)  # K
    rare = usage < threshold
    lack = jnp.where(rare, (threshold - usage) ** 2, 0.0).sum() / jnp.maximum(1, rare.sum())
    return lack + 0.1 * ((usage - 1 / len(usage)) ** 2).mean()


def classes_per_chunk(chunk: int, images: int, classes: int, prompts: int, dim: int) -> int:
    """Return how many classes are compared at once.

    Args:
        chunk: the user's choice; 0: as many as fit in `CHUNK_SIZE`.
        images: B.
        classes: C.
        prompts: K.
        dim: D.
    """
    return min(classes, chunk or max(1, CHUNK_SIZE // (prompts * max(images, dim))))


def num_shards(mesh: Mesh | None) -> int:
    """Return how many devices the classes are split over; 1 without a mesh."""
    return mesh.shape.get("model", 1) if mesh is not None else 1


def _split(call: Callable, mesh: Mesh | None, in_specs: tuple, out_specs: Any) -> Callable:
    """Return `call`, run on each device with its part of the classes."""
    if num_shards(mesh) == 1:
        return call
    return jax.shard_map(call, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _inverse_norm(x):
    return jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


def _product(form, a, b):
    return jnp.einsum(form, a, b, precision=HIGHEST, preferred_element_type=jnp.float32)


def _chunk_of(chunk, features, offsets):
    # The number of images is a symbol where a program of any batch size is exported.
    images = features.shape[0] if isinstance(features.shape[0], int) else SOME_IMAGES
    return classes_per_chunk(chunk, images, *offsets.shape)


def _is_new(at, chunk):
    """Return which classes of the chunk that begins at `at` were in no chunk before."""
    return jnp.arange(chunk) + at >= -(-at // chunk) * chunk


def _chunk_starts(classes: int, chunk: int) -> Array:
    """Return where chunks begin; the last may overlap the one before, which writes equal values."""
    count = -(-classes // chunk)
    return jnp.minimum(chunk * jnp.arange(count), classes - chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _max_similarity(features, offsets, text, chunk):
    """Compute `max_similarity` for the classes of one device."""
    # Inside, images are the last axis, for which the product is fastest.
    classes, prompts, _ = offsets.shape
    index_type = jnp.uint8 if prompts <= 256 else jnp.int32
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=chunk)
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)

    def step(carried, at):
        best, index = carried  # C B
        p = unit(cut(text, at)[:, None] + cut(offsets, at))
        scores = _product("ckd,bd->ckb", p, features)
        winner = scores.argmax(1).astype(index_type)
        return (put(best, scores.max(1), at), put(index, winner, at)), None

    shape = (classes, features.shape[0])
    start = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, index_type)
    best, index = jax.lax.scan(step, start, _chunk_starts(classes, chunk))[0]
    return best.T, index.T


def _max_similarity_forward(features, offsets, text, chunk):
    best, index = _max_similarity(features, offsets, text, chunk)
    return (best, index), (features, offsets, text, index)


def _max_similarity_backward(chunk, kept, gradients):
    features, offsets, text, index = kept
    index, gradient = index.T, gradients[0].T  # C B
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=chunk)
    which = jnp.arange(offsets.shape[1], dtype=index.dtype)[:, None]

    def step(carried, at):
        total, into = carried
        v = cut(text, at)[:, None] + cut(offsets, at)  # chunk K D
        scale = _inverse_norm(v)
        p = v * scale
        hit = cut(index, at)[:, None] == which  # chunk K B
        share = jnp.where(hit, cut(gradient, at)[:, None], 0.0)
        g = _product("ckb,bd->ckd", share, features)
        g = scale * (g - p * (p * g).sum(-1, keepdims=True))
        new = _is_new(at, chunk)[:, None, None]
        into = into + _product("ckb,ckd->bd", jnp.where(new, share, 0.0), p)
        return (jax.lax.dynamic_update_slice_in_dim(total, g, at, axis=0), into), None

    start = jnp.zeros_like(offsets), jnp.zeros_like(features)
    (total, into), _ = jax.lax.scan(step, start, _chunk_starts(len(offsets), chunk))
    return into, total, None


_max_similarity.defvjp(_max_similarity_forward, _max_similarity_backward)
