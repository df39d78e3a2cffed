"""Swin: attention in windows, prompts that visit them, merging, sizes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.swin import Swin
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.finetune import Bias, Full, Linear, Partial
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.nn.attention import resolve
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.tokens import Tokens


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def swin(match_reference_code=False, **options):
    """Two stages, 8 x 8 cells in 16 windows and 4 x 4 in 4; all numbers drawn."""
    options = {"window": 2, "depths": (2, 2), "heads": (1, 2)} | options
    options |= {"embed_dim": 4, "match_reference_code": match_reference_code}
    make = lambda: Swin("T", 32, rngs=nnx.Rngs(0), **options)  # noqa: E731
    graph, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(0, 0.4, shape).astype(np.float32))  # noqa: E731
    return nnx.merge(
        graph, params.fill(state, {n: draw(v.shape) for n, v in params.flatten(state).items()})
    )


@functools.cache
def after_two_blocks(match_reference_code, count, prompted=False):
    """Tokens of the first of three images of different colours, some with shallow prompts."""
    model = swin(match_reference_code, depths=(2,), heads=(1,))
    images = normal(3, 32, 32, 3) + 5 * normal(3, 1, 1, 3, seed=1)

    @jax.jit
    def call(images):
        tokens = model.embed(images, EVALUATION)
        tokens = tokens.insert(normal(2, 4, seed=2), at=0) if prompted else tokens
        for layer in model.layers:
            tokens = layer(tokens, EVALUATION)
        return tokens.x

    return call(images[:count])


def cells(batch=3):
    """Tokens that could enter the second block, whose windows are shifted."""
    return Tokens(normal(batch, 64, 4), 0, (8, 8))


# Blocks


@pytest.mark.parametrize("index", [0, 1])
def test_attention_is_that_within_windows(index):
    attn, x = swin().layers[index].attn, cells(2).x
    assert attn.windows.shift == index
    row, column = np.indices((8, 8)).reshape(2, -1)
    # Shifted windows begin a cell earlier; those at the edges are smaller.
    same = lambda n: (n[:, None] + index) // 2 == (n[None] + index) // 2  # noqa: E731
    together = same(row) & same(column)  # query, key
    dy, dx = (np.clip(n[:, None] - n[None], -1, 1) for n in (row, column))

    @jax.jit
    def expected(x):
        q, k, v = (dense(x) for dense in (attn.query, attn.key, attn.value))
        scores = jnp.einsum("bqnd,bknd->bnqk", q, k) * q.shape[-1] ** -0.5
        table = attn.relative_position_bias_table[...]
        scores += table[(dy + 1) * 3 + dx + 1].transpose(2, 0, 1)
        weights = jax.nn.softmax(jnp.where(together, scores, -jnp.inf), -1)
        return attn.out(jnp.einsum("bnqk,bknd->bqnd", weights, v))

    ours = jax.jit(lambda x: attn(x, EVALUATION))(x)
    np.testing.assert_allclose(ours, expected(x), atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_reading_is_inserting_and_dropping(batched):
    block, weights = swin().layers[1], normal(3, 64, 4, seed=7)
    prompts = normal(*[3] * batched, 5, 4, seed=4)

    def read(prompts, x):
        return block(Tokens(x, 0, (8, 8)), EVALUATION, extra_kv=prompts).x

    def inserted(prompts, x):
        return block(Tokens(x, 0, (8, 8)).insert(prompts, 0), EVALUATION).x[:, 5:]

    def value_and_gradients(f):
        loss = lambda *a: (f(*a) * weights).sum()  # noqa: E731
        return jax.jit(lambda *a: (f(*a), *jax.grad(loss, (0, 1))(*a)))(prompts, cells().x)

    results = zip(value_and_gradients(read), value_and_gradients(inserted), strict=True)
    for ours, theirs in results:
        assert jnp.abs(theirs).max() > 0.01
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_reading_beside_inserted_tokens():
    block, prompts = swin().layers[1], normal(3, 4, seed=4)
    tokens = cells().insert(normal(2, 4, seed=5), 0)
    short = jax.jit(lambda t: block(t, EVALUATION, extra_kv=prompts))(tokens)
    long = jax.jit(lambda t: block(t.insert(prompts, 0), EVALUATION))(tokens)
    assert (short.num_prefix_tokens, short.grid) == (2, (8, 8))
    np.testing.assert_allclose(short.x, long.x[:, 3:], atol=1e-5)


def seen_by_taps(block, tokens, **options):
    """Returns (site, y, x) of every tap of a block, as shapes."""
    seen = []

    def hook(site, y, x, ctx):
        seen.append((site, jnp.shape(y) if site != "attn.qkv" else y[0].shape, x.shape))
        return y

    jax.eval_shape(lambda t: block(t, Context(hook=hook), **options).x, tokens)
    return seen


def test_what_is_read_is_computed_once_and_only_as_key_and_value():
    seen = seen_by_taps(swin().layers[1], cells(), extra_kv=normal(5, 4))
    assert [s for s, _, x in seen if x == (5, 4)] == ["norm1", "attn.key", "attn.value"]
    assert {s for s, *_ in seen} == swin().taps - {"stem", "embed"}
    assert {x[:2] for _, _, x in seen} == {(5, 4), (3, 64)}


def test_taps_see_tokens_in_the_order_of_the_grid():
    block, tokens = swin().layers[1], cells()

    def hook(site, y, x, ctx):
        # What is added to the query of one cell reaches that cell alone.
        return y.at[:, 11].add(9.0) if site == "attn.query" else y

    run = jax.jit(lambda t, ctx: block(t, ctx).x, static_argnums=1)
    moved = jnp.abs(run(tokens, Context(hook=hook)) - run(tokens, EVALUATION)).max((0, 2)) > 1e-4
    assert np.flatnonzero(moved).tolist() == [11]


def test_extra_tokens_leave_with_the_mean_over_windows():
    attn, guest = swin().layers[1].attn, normal(1, 4, seed=6)

    @jax.jit
    def expected(tokens):
        x = attn.windows.divide(tokens.x.reshape(3, 8, 8, 4))  # B W T D
        x = jnp.concatenate([jnp.broadcast_to(guest, (3, 16, 1, 4)), x], 2)
        q, k, v = (dense(x) for dense in (attn.query, attn.key, attn.value))
        scores = jnp.einsum("bwnd,bwknd->bwnk", q[:, :, 0], k) * q.shape[-1] ** -0.5
        y = jnp.einsum("bwnk,bwknd->bwnd", jax.nn.softmax(scores, -1), v)
        return attn.out(y).mean(1)

    ours = jax.jit(lambda t: attn(t.insert(guest, 0).x, EVALUATION)[:, 0])(cells())
    np.testing.assert_allclose(ours, expected(cells()), atol=1e-5)


def test_merging_joins_neighbours_and_an_extra_token_with_itself():
    merging, guest = swin().layers[2], normal(1, 4)
    out = jax.jit(lambda t: merging(t.insert(guest, 0), EVALUATION))(cells(1))
    assert (out.x.shape, out.num_prefix_tokens, out.grid) == ((1, 17, 8), 1, (4, 4))
    grid = np.asarray(cells(1).x).reshape(8, 8, 4)
    joined = np.concatenate([grid[2, 4], grid[3, 4], grid[2, 5], grid[3, 5]])
    both = jnp.stack([joined, jnp.tile(guest[0], 4)])[None]
    expected = jax.jit(lambda x: merging.reduction(merging.norm(x)))(both)
    np.testing.assert_allclose(out.x[0, 1 + 1 * 4 + 2], expected[0, 0], atol=1e-6)
    np.testing.assert_allclose(out.x[0, 0], expected[0, 1], atol=1e-6)


# The published mixing of prompts


def test_parity_differs_for_shallow_prompts_of_several_windows_and_images_alone():
    run = after_two_blocks
    for same in ({"count": 3}, {"count": 1, "prompted": True}):
        np.testing.assert_allclose(run(False, **same), run(True, **same), atol=1e-5)
    assert jnp.abs(run(False, 3, prompted=True) - run(True, 3, prompted=True)).max() > 1e-2


@pytest.mark.parametrize("match_reference_code", [False, True])
def test_shallow_prompts_keep_to_their_image_unless_parity_asks_otherwise(match_reference_code):
    together = after_two_blocks(match_reference_code, 3, prompted=True)[:1]
    differs = jnp.abs(together - after_two_blocks(match_reference_code, 1, prompted=True)).max()
    assert differs > 1e-2 if match_reference_code else differs < 1e-5


def test_parity_changes_nothing_where_one_window_is_the_grid():
    prompts = normal(3, 2, 4, seed=1)
    ours, published = (
        jax.jit(lambda t, block=block: block(t.insert(prompts, 0), EVALUATION).x)(cells())
        for block in (swin(p, window=8, depths=(1,), heads=(1,)).layers[0] for p in (False, True))
    )
    np.testing.assert_allclose(ours, published, atol=1e-5)


# Sizes


@pytest.mark.parametrize(
    ("variant", "count"),
    [("T", 27_519_354), ("S", 48_837_258), ("B", 86_743_224), ("L", 194_995_476)],
)
def test_sizes_have_their_published_numbers_of_parameters(variant, count):
    state = nnx.state(nnx.eval_shape(lambda: Swin(variant, rngs=nnx.Rngs(0))))
    assert sum(v.size for v in jax.tree.leaves(state)) == count


@pytest.mark.parametrize(
    ("method", "options", "trainable", "total"),
    [
        (Linear, {}, 102_500, 86_845_724),
        (Full, {}, 86_845_724, 86_845_724),
        (Bias, {}, 303_260, 86_845_724),
        (Partial, {"num_layers": 1}, 12_706_180, 86_845_724),
        (Partial, {"num_layers": 2}, 25_307_812, 86_845_724),
        (Partial, {"num_layers": 4}, 33_719_236, 86_845_724),
        (VPT, {"num_tokens": 10, "deep": False}, 103_780, 86_847_004),
        (VPT, {"num_tokens": 10}, 222_820, 86_966_044),
    ],
)
def test_parameter_counts_of_the_paper(method, options, trainable, total):
    def make():
        backbone = Swin("B", rngs=nnx.Rngs(0))
        return Model(backbone, method(backbone, 100, rngs=nnx.Rngs(0), **options))

    parts = partition(nnx.eval_shape(make))
    count = lambda part: sum(v.size for v in part.values())  # noqa: E731
    assert count(parts.trainable) == trainable
    assert count(parts.trainable) + count(parts.frozen) == total


@pytest.mark.parametrize(
    ("image_size", "window", "grids"),
    [(224, 7, (56, 28, 14, 7)), (384, 12, (96, 48, 24, 12)), (448, 7, (112, 56, 28, 14))],
)
def test_windows_of_the_released_sizes(image_size, window, grids):
    backbone = nnx.eval_shape(lambda: Swin("T", image_size, rngs=nnx.Rngs(0)))
    assert tuple(dict.fromkeys(s.grid[0] for s in backbone.sites)) == grids
    blocks = [layer.attn.windows for layer in backbone.layers if hasattr(layer, "attn")]
    assert {w.size for w in blocks} == {window}
    shifts = [w.shift for w in blocks[:4] + blocks[-2:]]
    assert shifts == [0, window // 2] * 2 + [0, 7 // 2 if image_size == 448 else 0]


def test_sites_describe_the_tokens_that_enter():
    model = swin()
    assert [s.has_attention for s in model.sites] == [True, True, False, True, True]
    assert [s.stage for s in model.sites] == [0, 0, 0, 1, 1]

    def pooled(images):
        tokens = model.embed(images, EVALUATION)
        for site, layer in zip(model.sites, model.layers, strict=True):
            assert (tokens.grid, tokens.x.shape[-1]) == (site.grid, site.dim)
            tokens = layer(tokens, EVALUATION)
        return model.pool(tokens)

    assert jax.eval_shape(pooled, normal(1, 32, 32, 3)).shape == (1, model.dim) == (1, 8)


def test_pooling_reads_all_tokens_or_those_asked_for():
    model, tokens = swin(), Tokens(normal(2, 18, 8), 2, (4, 4))
    normed = model.norm(tokens.x)
    np.testing.assert_allclose(model.pool(tokens), normed.mean(1), atol=1e-6)
    images = model.pool(tokens, slice(2, None))
    np.testing.assert_allclose(images, normed[:, 2:].mean(1), atol=1e-6)


def test_drop_path_grows_from_block_to_block_and_acts_in_training_alone():
    model = swin(drop_path=0.6)
    blocks = [layer for layer in model.layers if hasattr(layer, "attn")]
    np.testing.assert_allclose([b.drop_path for b in blocks], [0, 0.2, 0.4, 0.6])
    tokens = Tokens(normal(64, 16, 8), 0, (4, 4))
    run = jax.jit(lambda t, **options: blocks[-1](t, Context(**options)).x)
    still, key = run(tokens), jax.random.key(0)
    np.testing.assert_array_equal(run(tokens, key=key), still)
    noisy = jax.jit(lambda t: blocks[-1](t, Context(key=key, noisy_backbone=True)).x)(tokens)
    untouched = jnp.all(noisy == tokens.x, axis=(1, 2)).sum()
    assert 10 < untouched < 40  # both branches: 0.36 of 64


def test_partial_names_whole_layers():
    model = nnx.eval_shape(lambda: Swin("T", rngs=nnx.Rngs(0)))
    names = params.flatten(nnx.state(model))
    layers = lambda k: {  # noqa: E731
        int(n.split("/")[1])
        for n in names
        if re.fullmatch(model.partial(k), n) and n.startswith("layers")
    }
    # Two blocks, merging, two, merging, six, merging, two.
    assert layers(1) == {14}
    assert layers(2) == {13, 14}
    assert layers(4) == {10, 11, 12, 13, 14}
    assert re.fullmatch(model.partial(1), "norm/scale")
    assert not re.fullmatch(model.partial(1), "layers/1/norm1/scale")
    with pytest.raises(UserError, match="partial-1 .*partial-2 .*partial-4"):
        model.partial(3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variant": "X"}, "Swin variant"),
        ({"attention": "cudnn"}, "no fused attention"),
        ({"image_size": 240}, "stage 0 has a grid of 60x60 .* multiple of 224"),
        ({"image_size": 112}, "stage 2 has a grid of 7x7"),
        ({"image_size": 16, "window": 2}, "stage 2 has a grid of 1x1"),
        ({"image_size": 2}, "0x0"),
        ({"heads": (5, 6, 12, 24)}, "5 heads"),
        ({"heads": (3, 6)}, "2 heads"),
    ],
)
def test_sizes_that_do_not_fit(options, match):
    with pytest.raises(UserError, match=match):
        nnx.eval_shape(lambda: Swin(**({"variant": "T"} | options), rngs=nnx.Rngs(0)))


def test_attention_is_never_said_to_be_fused():
    head_dim = nnx.eval_shape(lambda: Swin(rngs=nnx.Rngs(0))).head_dim
    assert resolve("auto", jnp.bfloat16, head_dim, "gpu") == "xla"
    with pytest.raises(UserError, match="no attention that can be fused"):
        resolve("cudnn", jnp.bfloat16, head_dim, "gpu")


def test_low_precision_stays_low_and_close():
    block = swin().layers[1]
    run = jax.jit(lambda t: block(t.insert(normal(2, 4), 0), EVALUATION).x)
    low = run(Tokens(cells().x.astype(jnp.bfloat16), 0, (8, 8)))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), run(cells()), atol=0.1)
