"""CLIP's towers, tokenizer, prompts and zero-shot classes. Weights are in tests/weights."""

import functools
import gzip
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import clip as files
from vpjax.backbones.clip import CLIP
from vpjax.backbones.clip_variants import VARIANTS, variant
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.models import factory
from vpjax.models.text import encode, tokenizer, zero_shot
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.pretrained import load_text
from vpjax.models.text.tower import TextTower
from vpjax.nn.activations import ACTIVATIONS, gelu, quick_gelu
from vpjax.nn.context import EVALUATION
from vpjax.runs import defaults
from vpjax.runs.experiment import backbone_spec, method_spec, preset_name, resolve_attention
from vpjax.weights.clip_config import read_clip_config

COUNTS = {  # parameters of the vision and of the text tower
    "B/32": (87_849_216, 63_428_096),
    "B/16": (86_192_640, 63_428_096),
    "L/14": (303_966_208, 123_650_304),
    "L/14@336": (304_293_888, 123_650_304),
}


@functools.cache
def text_of(size):
    """The text tower is the same for every patch size."""
    name = {"B": "B/16", "L": "L/14"}[size]
    return nnx.eval_shape(lambda: TextTower(name, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_of_the_released_models(name):
    size = lambda tower: sum(v.size for v in params.flatten(nnx.state(tower)).values())  # noqa: E731
    vision, text = nnx.eval_shape(lambda: CLIP(name, rngs=nnx.Rngs(0))), text_of(name[0])
    assert (size(vision), size(text)) == COUNTS[name]
    assert vision.dim == text.dim == VARIANTS[name].joint_dim
    assert vision.head_dim == text.layers[0].attn.query.kernel.shape[-1] == 64
    tokens = {"B/32": 50, "B/16": 197, "L/14": 257, "L/14@336": 577}
    assert vision.pos_embed.shape[0] == tokens[name]
    assert vision.norm.eps == vision.pre_norm.eps == text.layers[3].norm2.eps == 1e-5


@pytest.mark.parametrize(
    "name", ["L/14@336", "ViT-L/14@336px", "ViT-L/14@336", "openai/clip-vit-large-patch14-336"]
)
def test_every_spelling_of_a_variant(name):
    assert variant(name) is VARIANTS["L/14@336"]


def test_unknown_choices():
    with pytest.raises(UserError, match="unknown CLIP variant 'B/61'. Did you mean 'B/16'"):
        variant("B/61")
    with pytest.raises(UserError, match="unknown activation 'quick_gelo'. Did you mean 'quick_g"):
        nnx.eval_shape(lambda: CLIP(activation="quick_gelo", rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="no pre_logits"):
        nnx.eval_shape(lambda: CLIP(pre_logits=True, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="text width 9 does not divide into 2 heads"):
        TextTower(dim=9, heads=2, rngs=nnx.Rngs(0))


def test_quick_gelu_and_its_derivative():
    x = np.linspace(-8, 8, 41)
    gate = 1 / (1 + np.exp(-1.702 * x))
    np.testing.assert_allclose(quick_gelu(jnp.float32(x)), x * gate, atol=1e-6)
    slope = jax.vmap(jax.grad(quick_gelu))(jnp.float32(x))
    np.testing.assert_allclose(slope, gate + 1.702 * x * gate * (1 - gate), atol=1e-6)
    one = jnp.ones(1)
    assert ACTIVATIONS["gelu"] is gelu and abs(quick_gelu(one) - gelu(one)) > 1e-3
    assert quick_gelu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


# The vision tower in a config


def recipe(where, **options):
    config = defaults.get_config()
    config.backbone = defaults.backbone("clip.CLIP", weights=where, **options)
    return config


def build(config, num_classes):
    return factory.build(backbone_spec(config), method_spec(config), num_classes)


def test_a_folder_decides_what_a_config_leaves_open(tmp_path):
    config = recipe(files.folder(tmp_path / "m"))
    parts, loaded = build(config, 3)
    assert parts.frozen["backbone/pos_embed"].shape == (10, 16)
    assert parts.trainable["method/head/kernel"].shape == (files.JOINT, 3)
    np.testing.assert_array_equal(
        parts.frozen["backbone/norm/bias"], files.hub()["vision_model.post_layernorm.bias"]
    )
    assert loaded.resized == ""
    assert backbone_spec(config).completed()["image_size"] == 12
    assert resolve_attention(config) == "xla"
    assert preset_name(config) == "clip"


def test_a_config_may_choose_another_image_size(tmp_path):
    config = recipe(files.folder(tmp_path / "m"), image_size=20)
    parts, loaded = build(config, 3)
    assert parts.frozen["backbone/pos_embed"].shape == (26, 16)
    assert loaded.resized == "positions 3x3 -> 5x5"
    with pytest.raises(UserError, match="do not fit"):
        build(recipe(str(tmp_path / "m"), depth=1), 3)


def test_without_weights_the_variant_decides():
    assert backbone_spec(recipe("", variant="L/14@336")).completed()["image_size"] == 336
    assert backbone_spec(recipe("", variant="B/32")).completed()["image_size"] == 224


def test_the_projection_is_behind_the_class_token():
    clip = CLIP("B/16", 12, patch_size=4, dim=16, heads=2, depth=1, joint_dim=5, rngs=nnx.Rngs(0))

    @jax.jit
    def run(images):
        tokens = clip.embed(images, EVALUATION)
        normed, kernel = clip.norm(tokens.x), clip.projection.kernel[...]
        over = slice(1, 4)
        found = clip.pool(tokens), clip.pool(tokens, over)
        return tokens.x, found, (normed[:, 0] @ kernel, normed[:, over].mean(1) @ kernel)

    x, found, expected = run(jax.random.normal(jax.random.key(0), (2, 12, 12, 3)))
    np.testing.assert_allclose(x.mean(-1), 0, atol=1e-6)  # a norm has been there
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert clip.patch_embed.bias is None and clip.projection.bias is None


# The text tower


def tiny(**options):
    sizes = {"vocab": 50, "context": 9, "dim": 8, "heads": 2, "depth": 2, "joint_dim": 5}
    return TextTower(**sizes | options, rngs=nnx.Rngs(0))


def test_a_token_sees_what_is_before_it():
    tower = tiny()
    layer = tower.layers[0]

    @jax.jit
    def run(ids):
        tokens = tower.embed(ids)
        return layer(tokens, EVALUATION).x, layer(tokens, EVALUATION, num_outputs=3).x

    ids = jnp.array([[40, 3, 7, 9, 49, 0, 0]])
    (before, first), (after, _) = run(ids), run(ids.at[0, 3].set(8))
    changed = np.abs(before - after).max(-1)[0] > 1e-6
    assert changed.tolist() == [False, False, False, True, True, True, True]
    np.testing.assert_allclose(first, before[:, :3], atol=1e-6)
    with pytest.raises(ValueError, match="extra_kv has no place in a causal order"):
        jax.eval_shape(lambda: layer(tower.embed(ids), EVALUATION, extra_kv=jnp.ones((2, 8))))


def test_padding_and_cutting_change_nothing():
    call = jax.jit(tiny().__call__)
    ids = jnp.array([[40, 3, 49, 0, 0, 0], [40, 5, 6, 7, 49, 0]])
    features = call(ids)
    np.testing.assert_allclose(call(ids.at[0, 3:].set(49)), features, atol=1e-6)
    np.testing.assert_allclose(call(ids[:, :5]), features, atol=1e-6)
    np.testing.assert_allclose(call(ids[:1, :3]), features[:1], atol=1e-6)
    assert features.shape == (2, 5) and features.dtype == jnp.float32
    assert np.abs(features[0] - features[1]).max() > 1e-3


def numbered(texts):
    """Tokens of a text of numbers: "3 5"."""
    out = np.zeros((len(texts), 20), np.int32)
    for row, text in zip(out, texts, strict=True):
        ids = [40, *map(int, text.split()), 49]
        row[: len(ids)] = ids
    return out


def test_prompts_are_encoded_once_in_few_shapes(monkeypatch, caplog):
    tower = tiny(context=20)
    rng = np.random.default_rng(0)
    prompts = [" ".join(map(str, rng.integers(1, 40, rng.integers(1, 18)))) for _ in range(37)]
    prompts += prompts[:9]
    seen, inner = [], encode._features
    watch = lambda graph, state, ids: seen.append(ids.shape) or inner(graph, state, ids)  # noqa: E731
    monkeypatch.setattr(encode, "_features", watch)
    with caplog.at_level(logging.INFO, "vpjax"):
        found = encode_prompts(tower, numbered, prompts, 8)
    assert "37 of 37 prompts" in caplog.text
    expected = jax.jit(tower.__call__)(numbered(prompts))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert len(seen) == 5 and set(seen) <= {(8, 8), (8, 16), (8, 20)}
    assert encode_prompts(tower, numbered, prompts[:3], 8).shape == (3, 5)
    assert seen[-1][0] == 4  # not a whole batch for three
    assert encode_prompts(tower, numbered, []).shape == (0, 5)


def test_a_tokenizer_of_another_model_is_noticed():
    with pytest.raises(UserError, match="ids up to 49 and 3 tokens.*below 45 and 9"):
        encode_prompts(tiny(vocab=45), numbered, ["1"])
    with pytest.raises(UserError, match="different models"):
        encode_prompts(tiny(), numbered, ["1 2 3 4 5 6 7 8 9"])


# The tokenizer


def test_text_is_cleaned():
    assert tokenizer.clean(" a\t b\n") == "a b"
    assert tokenizer.clean("Tom &amp;amp; Jerry&rsquo;s \u201ccat\u201d") == 'Tom & Jerry\'s "cat"'
    assert tokenizer.clean("Salix \u00d7fragilis") == "Salix \u00d7fragilis"


def test_ids_end_where_the_text_does():
    call = files.small_tokenizer()
    ids = call(["a photo of danaus plexippus", ""])
    assert ids.shape == (2, 77) and ids.dtype == np.int32
    assert ids[1, :3].tolist() == [49406, 49407, 0] and ids[0, 10:12].tolist() == [49407, 0]
    assert call.vocab == 49408 and call([]).shape == (0, 77)


def test_long_texts():
    call = files.small_tokenizer()
    fits = "a " * 75
    assert call([fits])[0, -1] == 49407
    with pytest.raises(UserError, match="a text has 78 tokens, CLIP takes 77: 'a a a"):
        call([fits, fits + "a"])
    cut = call([fits + "a"], truncate=True)
    np.testing.assert_array_equal(cut, call([fits]))


def test_tokenizers_are_found_in_folders(tmp_path):
    folder = files.write_words(tmp_path)
    text, expected = ["A Photo of a Monarch Butterfly"], files.small_tokenizer()
    np.testing.assert_array_equal(tokenizer.open_tokenizer(str(folder))(text), expected(text))
    expected.backend.save_pretrained(tmp_path / "alone")
    assert (tmp_path / "alone" / "tokenizer.json").exists()
    for extra in ("vocab.json", "merges.txt"):
        (tmp_path / "alone" / extra).unlink(missing_ok=True)
    found = tokenizer.open_tokenizer(str(tmp_path / "alone"), context=20)
    np.testing.assert_array_equal(found(text), expected(text)[:, :20])
    weights = tmp_path / "model.npz"
    weights.touch()
    np.testing.assert_array_equal(tokenizer.open_tokenizer(str(weights))(text), expected(text))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file like OpenAI's: as many merges, of single letters, with a remark and unused lines."""
    letters = list(tokenizer.vocabulary([]))[:256]
    merges = [f"{a} {b}" for a in letters for b in letters][: tokenizer.MERGES]
    path = tmp_path_factory.mktemp("bpe") / tokenizer.BPE_FILE
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("\n".join(['"bpe_simple#version: 0.2', *merges, "not used"]) + "\n")
    return path


def test_the_whole_table_gives_every_id(table):
    merges = tokenizer.read_merges(table)
    words = tokenizer.vocabulary(merges)
    assert len(words) == 49408 and words["<|endoftext|>"] == 49407
    assert (words["!"], words["~"], words["\u00a1"], words["\u0100"]) == (0, 93, 94, 188)
    assert words["!</w>"] == 256 and words[merges[7].replace(" ", "")] == 519
    for where in (table, table.parent):
        assert tokenizer.open_tokenizer(str(where))(["~"])[0, :3].tolist() == [49406, 349, 49407]


def test_a_table_elsewhere_on_the_machine_is_found(table, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tokenizer, "elsewhere", lambda: [tmp_path, table.parent])
    with caplog.at_level(logging.DEBUG, "vpjax"):
        assert tokenizer.open_tokenizer().vocab == 49408
    assert f"tokenizer from {table.parent}" in caplog.text


def test_no_tokenizer_lists_where_it_may_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "elsewhere", lambda: [])
    for where in ("", str(tmp_path)):
        with pytest.raises(UserError) as e:
            tokenizer.open_tokenizer(where)
        for source in ("vocab.json and merges.txt", tokenizer.BPE_FILE, "open_clip_torch", "cache"):
            assert source in str(e.value)


def test_damaged_tokenizers(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        tokenizer.open_tokenizer(str(tmp_path))
    (tmp_path / "short.txt").write_text("a b\n")
    with pytest.raises(UserError, match="expected 48,894 lines of two tokens, found 1 lines"):
        tokenizer.open_tokenizer(str(tmp_path / "short.txt"))
    (tmp_path / "b.txt.gz").write_bytes(b"\x1f\x8b\x08cut")
    with pytest.raises(UserError, match="b.txt.gz cannot be read"):
        tokenizer.open_tokenizer(str(tmp_path / "b.txt.gz"))


def test_a_vocabulary_of_two_words_is_noticed():
    empty = tokenizer.clip_tokenizer()(vocab_file="vocab.json", merges_file="merges.txt")
    with pytest.raises(UserError, match="this tokenizer has 2 tokens"):
        tokenizer.Tokenizer(empty)
    merges, vocab = files.words()
    moved = vocab | {tokenizer.END: vocab["!"], "!": vocab[tokenizer.END]}
    with pytest.raises(UserError, match="the end token's id is 0 and the largest 49407"):
        tokenizer.Tokenizer(tokenizer.from_merges(merges, moved))


# Zero-shot


def test_prompts_of_classes():
    prompts, classes = zero_shot.class_prompts(
        [("monarch", "danaus_plexippus"), ("x {y}",)], ("a {}", "one {}, seen")
    )
    assert prompts[:3] == ["a monarch", "one monarch, seen", "a danaus plexippus"]
    assert prompts[4:] == ["a x {y}", "one x {y}, seen"] and classes.tolist() == [0, 0, 0, 0, 1, 1]
    with pytest.raises(UserError, match="class 1 has no name"):
        zero_shot.class_prompts([("a",), ()], ("{}",))
    with pytest.raises(UserError, match="template 'a photo' needs one {}"):
        zero_shot.class_prompts([("a",)], ("a photo",))


def test_class_embeddings_and_logits():
    features, classes = np.array([[3.0, 0], [0, 1], [0, 2]]), np.array([0, 0, 1])
    plain = zero_shot.class_embeddings(features, classes, 2)
    np.testing.assert_allclose(plain, [[3 / 10**0.5, 1 / 10**0.5], [0, 1]], atol=1e-6)
    each = zero_shot.class_embeddings(features, classes, 2, each=True)
    np.testing.assert_allclose(each[0], [0.5**0.5, 0.5**0.5], atol=1e-6)
    logits = zero_shot.logits(jnp.array([[0.0, 5]], jnp.bfloat16), each)
    np.testing.assert_allclose(logits, [[100 * 0.5**0.5, 100]], rtol=1e-5)
    assert logits.dtype == jnp.float32


# Another implementation, where it is installed


@pytest.mark.filterwarnings("ignore")
def test_transformers_own_model_gives_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    described = transformers.CLIPConfig(**files.config())
    described.text_config.eos_token_id = 2
    theirs = transformers.CLIPModel(described).eval()
    with torch.no_grad():  # norms and biases start at 1 and 0
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clip"
    images = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    ids = np.array([[30, 3, 7, 39, 0], [30, 5, 39, 39, 39]])
    with torch.no_grad():
        out = theirs(pixel_values=torch.tensor(images), input_ids=torch.tensor(ids))
    text = load_text(str(tmp_path))
    parts, _ = build(recipe(str(tmp_path)), 2)
    options = read_clip_config(str(tmp_path)).vision
    graph, state = nnx.split(nnx.eval_shape(lambda: CLIP(**options, rngs=nnx.Rngs(0))))
    values = {n.removeprefix("backbone/"): v for n, v in parts.frozen.items()}
    vision = nnx.merge(graph, params.fill(state, {n: values[n] for n in params.flatten(state)}))

    @jax.jit
    def features(images):
        tokens = vision.embed(images, EVALUATION)
        for layer in vision.layers:
            tokens = layer(tokens, EVALUATION)
        return vision.pool(tokens)

    with jax.default_matmul_precision("highest"):
        ours = features(jnp.asarray(images.transpose(0, 2, 3, 1)))
        logits = zero_shot.logits(
            ours, zero_shot.unit(jax.jit(text.tower.__call__)(ids)), text.scale
        )
    np.testing.assert_allclose(logits, out.logits_per_image.numpy(), atol=1e-4)
    np.testing.assert_allclose(zero_shot.unit(ours), out.image_embeds.numpy(), atol=1e-5)
