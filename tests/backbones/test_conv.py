"""ResNet and ConvNeXt: sizes, BatchNorm, what they refuse; a block of each against torch's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from tests.helpers import cases
from vpjax.backbones.convnext import ConvNeXt
from vpjax.backbones.resnet import ResNet
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.models.partition import merge
from vpjax.nn.attention import resolve
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.conv import BatchNorm, last_stages, max_pool
from vpjax.nn.tokens import Tokens
from vpjax.runs import config
from vpjax.train import sharding

TRAINING = Context(key=jax.random.key(0), noisy_backbone=True)
TINY = [cases.tiny_convnext, cases.tiny_resnet]


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def drawn(make, *arguments, **options):
    """Returns a network of random numbers, without compiling a draw for every shape."""
    body = nnx.eval_shape(lambda: make(*arguments, rngs=nnx.Rngs(0), **options))
    graphdef, state = nnx.split(body)
    rng = np.random.default_rng(0)
    values = {n: 0.3 * rng.normal(size=v.shape) for n, v in params.flatten(state).items()}
    values = {n: abs(v) + 0.5 if n.endswith("var") else v for n, v in values.items()}
    filled = {n: jnp.asarray(v, jnp.float32) for n, v in values.items()}
    return nnx.merge(graphdef, params.fill(state, filled))


def parameters(make):
    state = nnx.state(nnx.eval_shape(make), nnx.Param)
    return sum(v.size for v in jax.tree.leaves(state))


# torchvision's and the ConvNeXt repository's counts, less the heads of 1000 classes.
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("18", 11_176_512),
        ("34", 21_284_672),
        ("50", 23_508_032),
        ("101", 42_500_160),
        ("152", 58_143_808),
    ],
)
def test_resnets_have_their_published_numbers_of_parameters(variant, count):
    assert parameters(lambda: ResNet(variant, rngs=nnx.Rngs(0))) == count


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("T", 27_820_128),
        ("S", 49_454_688),
        ("B", 87_566_464),
        ("L", 196_230_336),
        ("XL", 348_147_968),
    ],
)
def test_convnexts_have_their_published_numbers_of_parameters(variant, count):
    assert parameters(lambda: ConvNeXt(variant, rngs=nnx.Rngs(0))) == count


def test_the_stem_for_small_images():
    make = lambda: ResNet("18", 32, stem="cifar", rngs=nnx.Rngs(0))  # noqa: E731
    assert parameters(make) == 11_168_832
    body = nnx.eval_shape(make)
    assert [body.grid, body.sites[-1].grid] == [(32, 32), (4, 4)]
    assert (body.stem.window, body.stem.stride, body.stem.padding) == ((3, 3), (1, 1), 1)


@pytest.mark.parametrize("make", TINY)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sites_say_what_enters_each_layer(make, dtype):
    body = drawn(make, size=(19, 26))  # odd sizes: one network rounds up, the other down
    seen = []

    @jax.jit
    def features(images):
        tokens = body.embed(images, EVALUATION)
        assert tokens.grid == body.grid
        for site, layer in zip(body.sites, body.layers, strict=True):
            seen.append(
                (tokens.grid, tokens.x.shape[-1], tokens.num_prefix_tokens, site.has_attention)
            )
            tokens = layer(tokens, EVALUATION.at(site.index))
        assert tokens.x.dtype == dtype
        return body.pool(tokens)

    assert features(normal(2, 19, 26, 3).astype(dtype)).shape == (2, body.dim)
    assert seen == [(site.grid, site.dim, 0, False) for site in body.sites]


@pytest.mark.parametrize(
    "make", [*TINY, lambda rngs: ResNet("18", 16, widths=(2, 2, 2, 2), rngs=rngs)]
)
def test_a_tap_sees_every_site_and_can_replace(make):
    seen = []

    def hook(site, y, x, ctx):
        seen.append(site)
        return jnp.zeros_like(y) if site in ("mlp", "branch") else y

    body, ctx = drawn(make), Context(hook=hook)
    tokens = body.embed(normal(1, 16, 16, 3), ctx)
    out = last = body.layers[0](tokens, ctx.at(0))
    for i, layer in enumerate(body.layers[1:], start=1):
        last = layer(last, ctx.at(i))
    shortcut = getattr(body.layers[0], "downsample", None)
    if shortcut is None:  # the branch was replaced by zero
        np.testing.assert_array_equal(out.x, tokens.x)
    assert set(seen) == body.taps


@pytest.mark.parametrize("make", TINY)
def test_the_stem_is_the_convolution_it_describes(make):
    body, seen = drawn(make), {}

    def hook(site, y, x, ctx):
        seen[site] = (x, y)
        return y

    body.embed(normal(2, 16, 16, 3), Context(hook=hook))
    images, y = seen["stem"]
    window, stride, padding, dim, pattern, channels = body.stem
    kernel = body.patch_embed.kernel[...]
    assert kernel.shape == (*window, channels, dim)
    edges = [(padding, padding)] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    ours = jax.lax.conv_general_dilated(images, kernel, stride, edges, dimension_numbers=layout)
    bias = body.patch_embed.bias
    ours = ours if bias is None else ours + bias[...]
    np.testing.assert_allclose(ours, y, atol=1e-5)
    found = params.matching(pattern, params.flatten(nnx.state(body)))
    assert {n.split("/")[0] for n in found} <= {"patch_embed", "patch_norm"}
    assert ("patch_norm/mean" in found) == body.batch_norm


def test_the_last_stages():
    stages = [0, 0, 1, 1, 1, 2, 3, 3]
    assert last_stages(0, stages) == "layers/(7)/.*"
    assert last_stages(1, stages) == "layers/(6|7)/.*"
    assert last_stages(3, stages) == "layers/(2|3|4|5|6|7)/.*"
    for k in (-1, 4):
        with pytest.raises(UserError, match="0 is the last block, 1 to 3"):
            last_stages(k, stages)


def test_partial_counts_what_halves_a_stage_to_it():
    body = nnx.eval_shape(lambda: ConvNeXt("T", rngs=nnx.Rngs(0)))
    assert body.partial(0) == "layers/(20)/.*|norm/.*"
    assert body.partial(1) == "layers/(17|18|19|20)/.*|norm/.*"
    assert type(body.layers[17]).__name__ == "_Downsample"
    body = nnx.eval_shape(lambda: ResNet("50", rngs=nnx.Rngs(0)))
    assert body.partial(1) == "layers/(13|14|15)/.*"


@pytest.mark.parametrize("make", TINY)
def test_tokens_without_a_place_are_refused(make):
    body = drawn(make)
    tokens = body.embed(normal(1, 16, 16, 3), EVALUATION)
    prompts = normal(2, tokens.x.shape[-1])
    with pytest.raises(UserError, match="prompts as tokens"):
        body.layers[0](tokens, EVALUATION, extra_kv=prompts)
    with pytest.raises(UserError, match="prompts as tokens"):
        body.layers[0](tokens.insert(prompts, at=0), EVALUATION)
    with pytest.raises(UserError, match="pools over selected tokens"):
        body.pool(tokens, over=slice(0, 2))
    assert body.layers[0](tokens, EVALUATION, num_outputs=3).x.shape[1] == 3


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (ResNet, {"variant": "51"}, "Did you mean"),
        (ResNet, {"stem": "cifer"}, "Did you mean 'cifar'"),
        (ResNet, {"widths": (2, 3)}, "differ in length"),
        (ConvNeXt, {"variant": "M"}, "ConvNeXt variant"),
        (ConvNeXt, {"dims": (2, 3)}, "differ in length"),
        (ConvNeXt, {"image_size": 16}, "at least 32 pixels"),
    ],
)
def test_options_that_do_not_fit(cls, options, match):
    with pytest.raises(UserError, match=match):
        nnx.eval_shape(lambda: cls(**options, rngs=nnx.Rngs(0)))


def test_a_config_section_builds_a_network():
    section = config.section("backbones", "resnet.ResNet", variant="18", widths=(2, 2, 2, 2))
    section.depths = (1, 1, 1, 1)
    body = nnx.eval_shape(lambda: registry.construct("backbones", section, rngs=nnx.Rngs(0)))
    assert (len(body.layers), body.dim) == (4, 2)
    assert resolve("auto", jnp.bfloat16, body.head_dim, "gpu") == "xla"


def test_batch_norm_follows_the_batch_by_torch_s_rule():
    norm, x = BatchNorm(3), 2 * normal(4, 2, 5, 3) + 1
    norm.mean[...], norm.var[...] = jnp.array([1.0, 2, 3]), jnp.array([4.0, 5, 6])
    flat = np.asarray(x).reshape(-1, 3)
    out = norm(x, TRAINING)
    whitened = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(out.reshape(-1, 3), whitened, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.9 * np.r_[1, 2, 3] + 0.1 * flat.mean(0), rtol=1e-6)
    unbiased = flat.var(0, ddof=1)
    np.testing.assert_allclose(norm.var[...], 0.9 * np.r_[4, 5, 6] + 0.1 * unbiased, rtol=1e-6)


@pytest.mark.parametrize("ctx", [EVALUATION, dataclasses.replace(TRAINING, noisy_backbone=False)])
def test_batch_norm_of_a_frozen_layer_uses_and_keeps_its_averages(ctx):
    norm, x = BatchNorm(3), normal(4, 2, 2, 3)
    norm.mean[...], norm.var[...] = jnp.array([1.0, 2, 3]), jnp.array([4.0, 5, 6])
    expected = (x - norm.mean[...]) / jnp.sqrt(norm.var[...] + 1e-5)
    np.testing.assert_allclose(norm(x, ctx), expected, atol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])


def test_batch_norm_sees_the_batch_of_all_devices():
    norm, x = BatchNorm(3), normal(8, 2, 2, 3) + jnp.arange(8.0).reshape(8, 1, 1, 1)
    graphdef, state = nnx.split(norm)

    @jax.jit
    def call(state, x):
        norm = nnx.merge(graphdef, state, copy=True)
        return norm(x, TRAINING), norm.mean[...], norm.var[...]

    mesh = sharding.make_mesh(8)
    parts = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert len(parts.sharding.device_set) == 8
    for one, other in zip(
        call(state, x), call(sharding.replicate(state, mesh), parts), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("method", "moves"), [("full", True), ("linear", False)])
def test_running_averages_of_layers_that_train_move(method, moves):
    parts = cases.make("resnet", method)

    @jax.jit
    def call(trainable, stats, frozen):
        model = merge(parts.graph, trainable, stats, frozen)
        model(normal(4, 16, 16, 3), Context(key=jax.random.key(0)))
        return params.flatten(nnx.state(model, nnx.BatchStat))

    before, after = parts.stats | parts.frozen, call(*parts[1:])
    moved = {n for n, v in after.items() if not np.array_equal(v, before[n])}
    assert moved == (set(after) if moves else set())
    assert set(parts.stats) == moved
    assert len(after) == 2 * (1 + 3 * 3 + 2)  # the stem, three bottlenecks, two projections


def test_stochastic_depth_skips_blocks_of_whole_images_while_the_backbone_trains():
    options = {"dims": (4, 4), "depths": (1, 2), "drop_path": 0.5}
    body = drawn(ConvNeXt, "T", 16, **options)
    assert [getattr(layer, "drop_path", None) for layer in body.layers] == [0.0, None, 0.25, 0.5]
    tokens = Tokens(normal(32, 4, 4), 0, (2, 2))
    block = body.layers[-1]
    plain = block(tokens, EVALUATION.at(3)).x - tokens.x
    noisy = block(tokens, TRAINING.at(3)).x - tokens.x
    kept = np.abs(noisy).max((1, 2)) > 0
    assert 0 < kept.sum() < 32
    np.testing.assert_allclose(noisy[kept], 2 * plain[kept], atol=1e-5)


def test_max_pool_pads_both_sides_and_keeps_low_precision():
    x = normal(1, 4, 5, 2).astype(jnp.bfloat16)
    wide = np.full((1, 6, 7, 2), -np.inf, np.float32)
    wide[:, 1:-1, 1:-1] = x
    expected = [[wide[0, i : i + 3, j : j + 3].max((0, 1)) for j in (0, 2, 4)] for i in (0, 2)]
    out = max_pool(x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[0].astype(jnp.float32), expected)


def torch_of(array):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.array(array))


def test_a_bottleneck_that_trains_is_torch_s():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    block = drawn(ResNet, "50", 16, widths=(4, 6), depths=(1, 1)).layers[1]
    x = normal(3, 5, 4, 16, seed=1)
    before = {n: torch_of(v) for n, v in params.flatten(nnx.state(block)).items()}

    def conv(x, name, stride=1):
        kernel = before[f"{name}/kernel"].permute(3, 2, 0, 1)
        return f.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2)

    def norm(x, name):
        mean, var, scale, bias = (before[f"{name}/{n}"] for n in ("mean", "var", "scale", "bias"))
        return f.batch_norm(x, mean, var, scale, bias, training=True)

    image = torch_of(x).permute(0, 3, 1, 2)
    y = norm(conv(image, "conv1"), "norm1").relu()
    y = norm(conv(y, "conv2", stride=2), "norm2").relu()
    y = norm(conv(y, "conv3"), "norm3")
    shortcut = norm(conv(image, "downsample/conv", stride=2), "downsample/norm")
    theirs = (shortcut + y).relu().permute(0, 2, 3, 1)

    out = block(Tokens(x.reshape(3, 20, 16), 0, (5, 4)), TRAINING.at(1))
    assert out.grid == (3, 2)
    np.testing.assert_allclose(out.x.reshape(theirs.shape), theirs, atol=1e-5)
    for name, value in params.flatten(nnx.state(block, nnx.BatchStat)).items():
        np.testing.assert_allclose(value, before[name], atol=1e-6, err_msg=name)


def test_a_convnext_block_is_torch_s():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    (block,) = drawn(ConvNeXt, "T", 16, dims=(6,), depths=(1,)).layers
    x = normal(2, 5, 4, 6, seed=1)
    p = {n: torch_of(v) for n, v in params.flatten(nnx.state(block)).items()}
    image = torch_of(x).permute(0, 3, 1, 2)
    kernel = p["conv/kernel"].permute(3, 2, 0, 1)
    y = f.conv2d(image, kernel, p["conv/bias"], padding=3, groups=6).permute(0, 2, 3, 1)
    y = f.layer_norm(y, (6,), p["norm/scale"], p["norm/bias"], 1e-6)
    y = f.gelu(f.linear(y, p["mlp/fc1/kernel"].T, p["mlp/fc1/bias"]))
    y = f.linear(y, p["mlp/fc2/kernel"].T, p["mlp/fc2/bias"])
    theirs = torch_of(x) + p["gamma"] * y
    out = block(Tokens(x.reshape(2, 20, 6), 0, (5, 4)), EVALUATION.at(0))
    np.testing.assert_allclose(out.x.reshape(theirs.shape), theirs, atol=1e-5)
