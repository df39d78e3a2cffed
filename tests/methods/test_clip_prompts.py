"""Prompt methods on CLIP: what they equal in special cases, counts, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import cases
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.methods.class_texts import Sentences
from vpjax.methods.cocoop import CoCoOp
from vpjax.methods.coop import CoOp
from vpjax.methods.ivlp import IVLP
from vpjax.methods.maple import MaPLe
from vpjax.methods.promptsrc import PromptSRC
from vpjax.methods.vpt_clip import VPTCLIP
from vpjax.models.factory import BackboneSpec, MethodSpec, abstract_model, check_towers
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.mop_similarity import unit
from vpjax.train.losses import softmax

CLASSES, DIM = cases.CLASSES, 32
WORDS = "a photo of a"


@pytest.fixture(scope="module")
def images():
    shape = (4, cases.IMAGE, cases.IMAGE, 3)
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def body():
    return cases.tiny_towers(nnx.Rngs(0))


def texts_of(context: str = WORDS):
    """Texts whose context has a token of its own for each word."""
    found = cases.tiny_texts(nnx.Rngs(1), Sentences(context), DIM)
    ids = found.ids.copy()
    count = len(context.split())
    ids[:, 1 : 1 + count] = np.arange(1, 1 + count)
    return found._replace(ids=ids)


def zero_shot(body, texts, images):
    """Logits of the two towers without any prompt."""

    @jax.jit
    def run(images):
        text = unit(texts.tower(texts.ids))
        return texts.scale * unit(body(images)) @ text.T

    return run(images)


def logits(body, method, images, ctx=EVALUATION):
    graph, state = nnx.split(Model(body, method))
    return jax.jit(lambda state: nnx.merge(graph, state)(images, ctx)["logits"])(state)


def close(one, other):
    np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (CoOp, {"init_words": WORDS}),
        (IVLP, {"text_tokens": 4, "text_depth": 1, "vision_tokens": 0, "vision_depth": 0}),
        (IVLP, {"text_tokens": 2, "text_depth": 1, "vision_tokens": 0, "vision_depth": 0}),
    ],
)
def test_a_context_that_is_words_equals_zero_shot(body, images, cls, options):
    texts = texts_of()
    method = cls(body, CLASSES, texts=texts, rngs=nnx.Rngs(2), **options)
    close(logits(body, method, images), zero_shot(body, texts, images))


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (VPTCLIP, {"num_tokens": 0, "depth": 1}),
        (MaPLe, {"num_tokens": 0, "depth": 1, "init_words": ""}),
    ],
)
def test_no_prompts_equal_zero_shot(body, images, monkeypatch, cls, options):
    module = cls.__module__
    monkeypatch.setattr(f"{module}.check_context", lambda *_: None)
    texts = texts_of()
    given = {"texts": texts} if cls.learns_texts else {}
    method = cls(body, CLASSES, rngs=nnx.Rngs(2), **options, **given)
    if cls is VPTCLIP:
        method.text[...] = unit(texts.tower(texts.ids))
        method.scale[...] = jnp.float32(texts.scale)
    close(logits(body, method, images), zero_shot(body, texts, images))


def test_cocoop_without_its_network_is_coop(body, images):
    texts = texts_of("X X")
    coop = CoOp(body, CLASSES, num_tokens=2, texts=texts, rngs=nnx.Rngs(2))
    cocoop = CoCoOp(body, CLASSES, num_tokens=2, texts=texts, rngs=nnx.Rngs(3))
    cocoop.ctx[...] = coop.ctx[...]
    for part in (cocoop.linear2.kernel, cocoop.linear2.bias):
        part[...] = jnp.zeros_like(part[...])
    close(logits(body, cocoop, images), logits(body, coop, images))
    assert not cocoop.settle()


def test_promptsrc_without_its_terms_is_ivlp(body, images):
    texts, labels = texts_of(), jnp.arange(4)
    sizes = {"text_tokens": 2, "text_depth": 2, "vision_tokens": 2, "vision_depth": 2}
    ctx = Context(key=jax.random.key(0))

    @jax.jit
    def run():
        ours = PromptSRC(
            body, CLASSES, text_weight=0.0, image_weight=0.0, texts=texts, rngs=nnx.Rngs(2), **sizes
        )
        plain = IVLP(body, CLASSES, texts=texts, rngs=nnx.Rngs(2), **sizes)
        out = Model(body, ours)(images, ctx)
        terms = ours.loss_terms(out, labels, softmax, ctx)
        return terms, plain.loss(Model(body, plain)(images, ctx), labels, softmax, ctx)

    terms, loss = run()
    close(terms["loss_ce"], loss)
    close(terms["loss"] - terms["loss_logits"], loss)
    assert not np.any(terms["loss_text"]) and not np.any(terms["loss_image"])


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_a_text_that_is_not_cut_has_the_same_feature(body, position):
    texts = texts_of("X X")
    longer = texts._replace(ids=np.pad(texts.ids, ((0, 0), (0, 3))))
    one, other = (
        CoOp(body, CLASSES, num_tokens=2, position=position, texts=t, rngs=nnx.Rngs(2))
        for t in (texts, longer)
    )
    close(one.settle()["text"], other.settle()["text"])


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", ["start", "ctx", "ctx", "ctx", 6, 7, 1, 19]),
        ("middle", ["start", "ctx", 6, 7, "ctx", "ctx", 1, 19]),
        ("front", ["start", 6, 7, "ctx", "ctx", "ctx", 1, 19]),
    ],
)
def test_where_the_name_stands(body, position, expected):
    texts = texts_of("X X X")
    method = CoOp(body, CLASSES, num_tokens=3, position=position, texts=texts, rngs=nnx.Rngs(2))
    embedded, table = method.texts.embedded(method.ctx[...]), texts.tower.token_embed[...]
    context = iter(method.ctx[...])
    for row, wanted in zip(embedded[1], expected, strict=False):
        own = next(context) if wanted == "ctx" else table[18 if wanted == "start" else wanted]
        np.testing.assert_array_equal(row, own)


def test_settled_texts_are_used_and_need_no_tower(body, images):
    method = CoOp(body, CLASSES, num_tokens=2, texts=texts_of("X X"), rngs=nnx.Rngs(2))
    ctx = dataclasses.replace(EVALUATION, settled=method.settle())
    close(logits(body, method, images, ctx), logits(body, method, images))
    graph, state = nnx.split(Model(body, method))
    program = jax.jit(lambda state, ctx=ctx: nnx.merge(graph, state)(images, ctx)["logits"])
    whole = jax.jit(lambda state: nnx.merge(graph, state)(images)["logits"])
    # Two blocks of the text tower: matrix products that are gone.
    count = lambda f: f.lower(state).as_text().count("dot_general")  # noqa: E731
    assert count(program) <= count(whole) - 2 * 8


def test_nothing_of_the_tower_trains_or_is_kept():
    parts = cases.make("clip_towers", "maple")
    assert not [n for n in parts.trainable if "tower" in n]
    assert [n for n in parts.frozen if n.startswith("method/texts/tower/layers/1/")]


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("coop.CoOp", {}, 8_192),
        ("coop.CoOp", {"class_specific": True}, 10 * 8_192),
        ("coop.CoOp", {"init_words": WORDS}, 4 * 512),
        ("cocoop.CoCoOp", {}, 35_360),
        ("vpt_clip.VPTCLIP", {}, 73_728),
        ("ivlp.IVLP", {}, 30_720),
        ("ivlp.IVLP", {"text_tokens": 4, "vision_tokens": 0, "vision_depth": 0}, 24_576),
        ("maple.MaPLe", {}, 3_555_072),
        ("promptsrc.PromptSRC", {}, 46_080),
    ],
)
def test_vit_b_16(name, options, count):
    model = abstract_model(
        BackboneSpec("clip.CLIP", {"variant": "B/16"}), MethodSpec(name, options), 10
    )
    assert sum(v.size for v in partition(model).trainable.values()) == count


OTHERS = [b for b in cases.BACKBONES if not b.startswith("clip")]


@pytest.mark.parametrize("method", cases.TOWERS)
def test_other_backbones_are_refused(method):
    cls, options = cases.METHODS[method]
    name = registry.name_of("methods", cls)
    for backbone in OTHERS:
        body = nnx.eval_shape(lambda b=backbone: cases.BACKBONES[b](nnx.Rngs(0)))
        with pytest.raises(UserError, match="Set backbone.name='clip.CLIP'"):
            cls(body, CLASSES, rngs=nnx.Rngs(0), **options)
        if cls.learns_texts:
            with pytest.raises(UserError, match="Set backbone.name='clip.CLIP'"):
                check_towers(name, registry.name_of("backbones", type(body)))


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (CoOp, {"num_tokens": 0}, "num_tokens is 0; give at least 1"),
        (CoOp, {"init_words": WORDS, "class_specific": True}, "class_specific contexts start at"),
        (CoOp, {"position": "start"}, "position"),
        (CoCoOp, {"num_tokens": 9}, "9 context tokens, but a text of these classes has"),
        (IVLP, {"text_tokens": 5}, "has 4 words: the context would replace"),
        (IVLP, {"text_depth": 0}, "text_depth is 0; give 1 to 2"),
        (IVLP, {"text_depth": 1, "vision_depth": 3}, "vision_depth is 3; give 0 to 2"),
        (IVLP, {"vision_tokens": 0}, "give both at least 1, or both 0"),
        (MaPLe, {"depth": 0}, "depth is 0; give at least 1"),
        (PromptSRC, {"text_weight": -1.0}, "must be 0 or more"),
    ],
)
def test_options_that_are_refused(body, cls, options, message):
    with pytest.raises(UserError, match=message):
        cls(body, CLASSES, texts=texts_of(), rngs=nnx.Rngs(0), **options)


def test_features_too_narrow_for_cocoop():
    body = cases.tiny_clip(nnx.Rngs(0))
    texts = cases.tiny_texts(nnx.Rngs(1), Sentences("X X"), body.dim)
    with pytest.raises(UserError, match="nothing is left. Use coop.CoOp"):
        CoCoOp(body, CLASSES, num_tokens=2, texts=texts, rngs=nnx.Rngs(0))


def test_towers_of_two_models(body):
    texts = cases.tiny_texts(nnx.Rngs(1), Sentences("X X"), 16)
    with pytest.raises(UserError, match="must come from the same CLIP"):
        CoOp(body, CLASSES, num_tokens=2, texts=texts, rngs=nnx.Rngs(0))
