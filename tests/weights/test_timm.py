"""Files with timm's names into ViT, MAE and MoCo v3, and what is particular to those two."""

import jax
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.vit import MAE, MoCoV3, ViT, waves
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.methods.finetune import Full, Linear
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens
from vpjax.weights import google, swin, timm
from vpjax.weights.load import load

DIM, HEADS, DEPTH = 8, 2, 2


def tiny(cls, image=16, **options):
    size = {"dim": DIM, "mlp_dim": 12, "heads": HEADS, "depth": DEPTH}
    return cls("Ti/4", image, **size, **options, rngs=nnx.Rngs(0))


def shapes(backbone):
    return params.flatten(nnx.state(backbone))


def file_of(prefix="", grid=4, norm="norm", head=None):
    """Returns a file's arrays: each holds its own numbers."""
    draw = np.random.default_rng(0).standard_normal
    linear = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM)}
    linear |= {"mlp.fc1": (12, DIM), "mlp.fc2": (DIM, 12)}
    linear = {f"blocks.{i}.{n}": s for i in range(DEPTH) for n, s in linear.items()}
    if head:
        linear["head"] = (head, DIM)
    out = {f"{n}.weight": draw(s) for n, s in linear.items()}
    out |= {f"{n}.bias": draw(s[0]) for n, s in linear.items()}
    for n in (norm, *(f"blocks.{i}.norm{k}" for i in range(DEPTH) for k in (1, 2))):
        out |= {f"{n}.weight": draw(DIM), f"{n}.bias": draw(DIM)}
    out |= {"patch_embed.proj.weight": draw((DIM, 3, 4, 4)), "patch_embed.proj.bias": draw(DIM)}
    out |= {"cls_token": draw((1, 1, DIM)), "pos_embed": draw((1, 1 + grid * grid, DIM))}
    return {prefix + n: v.astype(np.float32) for n, v in out.items()}


def written(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def loaded(tmp_path, arrays, backbone, **options):
    return load(written(tmp_path / "a.npz", arrays), shapes(backbone), backbone.grid, **options)


@pytest.mark.parametrize(
    ("cls", "prefix"), [(ViT, ""), (MoCoV3, "module."), (MoCoV3, "module.base_encoder.")]
)
def test_every_number_has_its_place(tmp_path, cls, prefix):
    arrays = file_of(prefix)
    result = loaded(tmp_path, arrays, tiny(cls))
    theirs = lambda name: arrays[prefix + name]  # noqa: E731
    ours = result.values
    assert result.dropped == () and result.resized == ""
    x = np.random.default_rng(1).standard_normal((5, DIM)).astype(np.float32)  # tokens
    qkv = x @ theirs("blocks.1.attn.qkv.weight").T + theirs("blocks.1.attn.qkv.bias")
    for k, name in enumerate(("query", "key", "value")):
        kernel, bias = (ours[f"layers/1/attn/{name}/{n}"] for n in ("kernel", "bias"))
        assert kernel.shape == (DIM, HEADS, DIM // HEADS) and bias.shape == kernel.shape[1:]
        mine = np.einsum("ti,ihd->thd", x, kernel) + bias
        np.testing.assert_allclose(
            mine.reshape(5, -1), qkv[:, k * DIM : (k + 1) * DIM], atol=1e-5, err_msg=name
        )
    mine = np.einsum("thd,hdo->to", x.reshape(5, HEADS, -1), ours["layers/0/attn/out/kernel"])
    np.testing.assert_allclose(mine, x @ theirs("blocks.0.attn.proj.weight").T, atol=1e-5)
    same = np.testing.assert_array_equal
    same(ours["layers/0/mlp/fc1/kernel"], theirs("blocks.0.mlp.fc1.weight").T)
    same(ours["layers/1/norm2/scale"], theirs("blocks.1.norm2.weight"))
    same(ours["patch_embed/kernel"][1, 2, 0], theirs("patch_embed.proj.weight")[:, 0, 1, 2])
    same(ours["cls_token"], theirs("cls_token")[0])
    same(ours["pos_embed"], theirs("pos_embed")[0])
    same(ours["norm/bias"], theirs("norm.bias"))


def test_only_vits_are_recognised():
    vit, module = file_of(), file_of("module.")
    assert timm.recognises(vit) and timm.recognises(module)
    assert not timm.recognises([f"layers.0.{n}" for n in vit])  # Swin
    assert not timm.recognises([f"module.momentum_encoder.{n}" for n in vit])
    for form in (google, swin):
        assert not form.recognises(vit) and not form.recognises(module)


def test_mae_starts_the_norm_its_file_lacks(tmp_path):
    decoder = {"mask_token": np.ones((1, 1, 4)), "decoder_pos_embed": np.ones((1, 17, 4))}
    decoder |= {f"decoder_{n}": v for n, v in file_of().items()}
    result = loaded(tmp_path, file_of() | decoder, tiny(MAE))
    np.testing.assert_array_equal(result.values["fc_norm/scale"], np.ones(DIM))
    np.testing.assert_array_equal(result.values["fc_norm/bias"], np.zeros(DIM))
    dropped = {f"unused/{n}" for n in decoder} | {"unused/norm/scale", "unused/norm/bias"}
    assert set(result.dropped) == dropped
    tuned = file_of(norm="fc_norm")  # a fine-tuned MAE has it
    result = loaded(tmp_path, tuned, tiny(MAE))
    np.testing.assert_array_equal(result.values["fc_norm/bias"], tuned["fc_norm.bias"])
    with pytest.raises(UserError, match=r"missing \(2\):\s+norm/bias(?s:.*)fc_norm/bias"):
        loaded(tmp_path, tuned, tiny(ViT))


def test_moco_leaves_out_what_only_training_needs(tmp_path):
    rest = {f"module.momentum_encoder.{n}": v for n, v in file_of().items()}
    rest |= {"module.predictor.0.weight": np.ones((3, 3))}
    rest |= {"module.base_encoder.head.0.weight": np.ones((4, DIM))}
    rest |= {"module.base_encoder.head.1.running_mean": np.ones(4)}
    result = loaded(tmp_path, file_of("module.base_encoder.") | rest, tiny(MoCoV3))
    short = {n.removeprefix("module.base_encoder.") for n in rest}
    assert set(result.dropped) == {f"unused/{n}" for n in short}


def test_the_linear_file_has_a_head(tmp_path):
    arrays = file_of("module.", head=7)
    assert set(loaded(tmp_path, arrays, tiny(MoCoV3)).dropped) == {"head/kernel", "head/bias"}
    head = loaded(tmp_path, arrays, tiny(MoCoV3), head="load").head
    np.testing.assert_array_equal(head["kernel"], arrays["module.head.weight"].T)


@pytest.mark.parametrize("cls", [MAE, MoCoV3])
def test_positions_are_resized(tmp_path, cls):
    arrays = file_of(grid=2)
    result = loaded(tmp_path, arrays, tiny(cls))
    theirs, ours = arrays["pos_embed"][0], result.values["pos_embed"]
    assert result.resized == "positions 2x2 -> 4x4" and ours.shape == (17, DIM)
    np.testing.assert_array_equal(ours[[0, 1, 4, 13, 16]], theirs)  # class token and corners


def test_other_architectures_do_not_load(tmp_path):
    scale = {"blocks.0.ls1.gamma": np.ones(DIM), "register_tokens": np.ones((1, 4, DIM))}
    with pytest.raises(UserError, match=r"blocks.0.ls1.gamma(?s:.*)layer_scale"):
        loaded(tmp_path, file_of() | scale, tiny(ViT))
    wide = ViT("Ti/4", 16, dim=9, mlp_dim=12, heads=3, depth=DEPTH, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"query/kernel: file \(8, 8\), model \(9, 3, 3\)"):
        loaded(tmp_path, file_of(), wide)


# The two classes


def apart(cls, method=Linear, **options):
    body = tiny(cls)
    return partition(Model(body, method(body, 3, rngs=nnx.Rngs(1), **options)))


def test_mae_pools_before_its_norm():
    mae = tiny(MAE)
    assert mae.num_pooled_tokens is None and "norm/scale" not in shapes(mae)
    x = jax.random.normal(jax.random.key(0), (2, 1 + 3 + 16, DIM))  # with 3 prompts
    mae.fc_norm.scale[...] = jax.random.normal(jax.random.key(1), (DIM,))
    tokens = Tokens(x, num_prefix_tokens=4, grid=(4, 4))
    for over, chosen in ((None, x[:, 1:]), (slice(1, 4), x[:, 1:4])):
        mean = np.asarray(chosen, np.float64).mean(1)
        centred = mean - mean.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        expected *= np.asarray(mae.fc_norm.scale[...])
        np.testing.assert_allclose(mae.pool(tokens, over), expected, atol=1e-5)
    with pytest.raises(UserError, match="no pre_logits"):
        tiny(MAE, pre_logits=True)


def test_moco_s_positions_never_train():
    parts = apart(MoCoV3, Full)
    assert "backbone/pos_embed" in parts.frozen and list(parts.frozen) == ["backbone/pos_embed"]
    assert "backbone/pos_embed" in apart(MAE, Full).trainable
    whole = merge(parts.graph, *parts[1:])
    np.testing.assert_array_equal(whole.backbone.pos_embed[...], waves((4, 4), DIM))


def test_waves_by_their_formula():
    found = np.asarray(waves((3, 2), 16))
    assert found.shape == (7, 16) and not found[0].any()
    for row, column in ((0, 0), (1, 0), (2, 1)):
        omega = [10000 ** (-j / 4) for j in range(4)]
        parts = [f(p * w) for p in (row, column) for f in (np.sin, np.cos) for w in omega]
        np.testing.assert_allclose(found[1 + 2 * row + column], parts, atol=1e-6)
    w, h = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")  # as MoCo v3's code has it
    angles = [p.reshape(16, 1) * 10000.0 ** -(np.arange(2) / 2) for p in (w, h)]
    square = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    np.testing.assert_allclose(waves((4, 4), 8)[1:], square, atol=1e-6)
    with pytest.raises(UserError, match="divides by 4, and dim is 6"):
        waves((2, 2), 6)


def test_stochastic_depth_rises_to_the_last_layer_and_only_training_sees_it():
    assert [b.drop_path for b in tiny(MAE).layers] == [0.0, 0.1]
    assert [b.drop_path for b in tiny(ViT).layers] == [0.0, 0.0]
    assert [b.drop_path for b in tiny(ViT, drop_path=0.3).layers] == [0.0, 0.3]
    image = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
    full, linear = apart(MAE, Full, head_init="classes"), apart(MAE, Linear, head_init="classes")

    def logits(parts, ctx):
        call = jax.jit(lambda image: merge(parts.graph, *parts[1:])(image, ctx)["logits"])
        return np.asarray(call(image))

    training = Context(key=jax.random.key(1))
    np.testing.assert_array_equal(logits(linear, training), logits(linear, Context()))
    assert (logits(full, training) != logits(full, Context())).any()


@pytest.mark.parametrize(
    ("cls", "method", "options", "partial", "trainable"),
    [
        (MAE, Linear, {}, 0, 76_900),
        (MoCoV3, Linear, {}, 0, 76_900),
        (MAE, Linear, {}, 1, 7_166_308),
        (MoCoV3, Linear, {}, 1, 7_164_772),
        (MAE, Full, {}, 0, 85_875_556),
        (MoCoV3, Full, {}, 0, 85_724_260),
        (MAE, VPT, {"num_tokens": 10, "deep": False}, 0, 84_580),
        (MoCoV3, VPT, {"num_tokens": 10}, 0, 169_060),
    ],
)
def test_counts_of_the_published_models(cls, method, options, partial, trainable):
    def build():
        body = cls(rngs=nnx.Rngs(0))
        return Model(body, method(body, 100, rngs=nnx.Rngs(0), **options))

    model = nnx.eval_shape(build)
    regex = f"method/.*|backbone/({model.backbone.partial(partial)})" if partial else ""
    parts = partition(model, regex)
    count = lambda part: sum(v.size for v in part.values())  # noqa: E731
    assert count(parts.trainable) == trainable
    prompts = sum(v.size for n, v in parts.trainable.items() if n.startswith("method/prompts"))
    assert count(parts.trainable) + count(parts.frozen) == 85_875_556 + prompts


def test_partial_has_the_last_layers_and_mae_s_norm():
    find = lambda cls, k: params.matching(tiny(cls).partial(k), shapes(tiny(cls)))  # noqa: E731
    mae, moco = find(MAE, 1), find(MoCoV3, 1)
    assert mae - moco == {"fc_norm/scale", "fc_norm/bias"}
    assert {n.split("/")[1] for n in moco} == {"1"} and len(moco) == 16
    with pytest.raises(UserError, match="partial-3 needs 1 to 2 layers"):
        tiny(MoCoV3).partial(3)


def test_options_come_through_the_bases():
    assert (
        registry.options(MAE).keys()
        == registry.options(MoCoV3).keys()
        == registry.options(ViT).keys()
    )
    assert registry.options(MAE)["drop_path"].default == 0.1
    config = {"name": "vit.MoCoV3", "variant": "Ti/4", "image_size": 8, "depth": 1}
    built = registry.construct("backbones", config, rngs=nnx.Rngs(0))
    assert isinstance(built, MoCoV3) and len(built.layers) == 1
