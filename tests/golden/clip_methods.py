"""Prompt methods on a tiny CLIP: CoOp, CoCoOp, VPT, IVLP, MaPLe, PromptSRC, and what trains them.

clip_method      a batch: texts with contexts in place, features, logits, loss, gradients
clip_training    CoOp through the library's own step, optimizer and schedule
aggregation      PromptSRC's average over epochs, through the library's optimizer

Models are built as users build them, from the weights of both towers, but for the tokenizer: ids of
texts are recorded. `METHODS` has, by the method's name in a case, what reads its options.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import training
from tests.golden.clip import model as laid_out
from tests.golden.clip import pixels
from tests.golden.comparison import Comparison, limits, scaled
from tests.golden.record import NotUnderstood, Record, under
from vpjax.models import factory
from vpjax.models.factory import BackboneSpec, MethodSpec
from vpjax.models.partition import ModelParts, merge
from vpjax.models.text.class_texts import class_texts, sentences_of
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.features import mean_over_templates, prompts_of_classes
from vpjax.models.text.pretrained import load_text
from vpjax.nn.context import EVALUATION, Context

BLOCKS = r"\.transformer\.resblocks\.(\d+)\.VPT_shallow"
NAMES = (
    (r"prompt_learner\.ctx", "method/ctx"),
    (r"prompt_learner\.meta_net\.(linear[12])\.(weight|bias)", r"method/\1/\2"),
    (r"prompt_learner\.proj\.(weight|bias)", r"method/proj/\1"),
    (r"image_encoder\.VPT", "method/prompts/0"),
    (rf"image_encoder{BLOCKS}", r"method/prompts/\1"),
    (rf"text_encoder{BLOCKS}", r"method/text_prompts/\1"),
)
LATER = (  # counted from the second layer on
    (r"prompt_learner\.compound_prompts_text\.(\d+)", "method/text_prompts/{}"),
    (r"prompt_learner\.compound_prompt_projections\.(\d+)\.(weight|bias)", "method/maps/{}/{}"),
)
FROZEN = ("frozen_features", "frozen_logits")  # outputs of PromptSRC in training


class Case(NamedTuple):
    """How a method of a case is built."""

    method: str
    options: dict[str, Any]
    context: str = ""  # words before a name
    templates: Sequence[str] = ()  # of targets


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield outputs, loss and gradients of a case, and what trains."""
    meta.ignore("case", "kind")
    if meta["method"] not in METHODS:
        raise NotUnderstood(f"method {meta['method']}")
    case = METHODS[meta["method"]](meta["options"])
    parts = build(case, meta, arrays, folder)
    yield from compare_start(parts, case, meta, arrays)
    expected = {translated(n) for n in meta["trainable"]}
    if expected != parts.trainable.keys():
        raise AssertionError(f"what trains differs: {sorted(expected ^ parts.trainable.keys())}")
    count = sum(v.size for v in parts.trainable.values())
    yield Comparison("trainable count", count, meta["n_trainable"], 0.0)
    still = [translated(n) for n in meta["trainable_without_gradient"]]
    trainable = gather(arrays, "param/")
    images, labels = pixels(arrays["in/pixel_values"]), jnp.asarray(arrays["in/label"])
    ctx = Context(key=jax.random.key(0))

    def loss_fn(trainable):
        whole = merge(parts.graph, trainable, parts.stats, parts.frozen)
        out = whole(images, ctx)
        terms = training.loss_terms(whole, out, labels, ctx)
        return terms["loss"].mean(), (out, {n: v.mean() for n, v in terms.items()})

    outputs, slopes = (limits(meta["tolerance"][kind]) for kind in ("outputs", "gradients"))
    (loss, (out, terms)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(trainable)
    yield scaled("loss", loss, arrays["loss"], **outputs)
    if "loss" in meta:
        yield scaled("loss of meta", loss, meta["loss"], **outputs)
    for name, value in under(arrays, "loss/").items():
        yield scaled(name, terms[f"loss_{name}"], value, **outputs)
    yield scaled("logits", out["logits"], arrays["out/logits"], **outputs)
    yield scaled("features", out["features"], arrays["out/features"], **outputs)
    for name, value in gather(arrays, "grad/").items():
        yield scaled(f"grad {name}", grads[name], value, **slopes)
    for name in still:
        yield Comparison(f"no grad {name}", grads[name], np.zeros_like(grads[name]), 0.0)

    @jax.jit
    def inside(trainable):
        whole = merge(parts.graph, trainable, parts.stats, parts.frozen)
        settled = whole.method.settle()
        ctx = dataclasses.replace(EVALUATION, settled=settled)
        evaluated = (whole(images, c)["logits"] for c in (EVALUATION, ctx))
        return within(whole.method, out | settled), *evaluated

    found, *evaluated = inside(trainable)
    yield from compare_inside(found | {k: out[k] for k in FROZEN if k in out}, arrays, outputs)
    for name, logits in zip(("evaluation", "evaluation, settled"), evaluated, strict=True):
        yield scaled(name, logits, arrays["out/logits"], **outputs)


def compare_start(
    parts: ModelParts, case: Case, meta: Record, arrays: Record
) -> Iterator[Comparison]:
    """Yield the context that a model starts from, where that is made of words."""
    start = arrays.get("out/ctx_init")
    if start is not None:
        yield Comparison("start", parts.trainable["method/ctx"], start, 0.0)


def within(method: Any, known: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return what a method computes inside, by the names of the recordings."""
    found = {}
    if hasattr(method, "texts"):
        found["prompts"] = method.texts.embedded(method.ctx[...])
    if hasattr(method, "shift"):
        found["bias"] = method.shift(known["features"])
        found["text_features"] = method.texts_of(known["features"], EVALUATION)
    else:
        found["text_features"] = known["text"] if "text" in known else method.text[...]
    if hasattr(method, "maps"):
        found["visual_ctx"] = method.vision_prompt(0)
        for name in method.maps:
            found[f"visual_deep.{int(name) - 1}"] = method.vision_prompt(int(name))
    if hasattr(method, "targets"):
        found["frozen_text_features"] = method.targets[...]
    return found


def compare_inside(ours: dict, arrays: Record, limits: dict) -> Iterator[Comparison]:
    """Yield what was recorded inside; prompts are cut at the longest text here."""
    known = ("logits", "features", "ctx_init")
    for name, recorded in under(arrays, "out/").items():
        if name == "prompts":
            recorded = recorded[:, : ours[name].shape[1]]
        if name not in known:
            yield scaled(name, ours[name], recorded, **limits)


def compare_training(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield learning rate, loss and context of every step."""
    meta.ignore("case", "kind", "trainable")
    meta.expect("method", "coop")
    options = meta["options"]
    options.expect("schedule", "cosine, one step an epoch")
    case = coop(options)
    parts = build(case, meta, arrays, folder)
    each, batch = options["steps_per_epoch"], options["batch"]
    plan = training.Plan(options["epochs"] * each, each, batch)
    chosen = training.settings(
        name="sgd",
        lr=options["lr"],
        momentum=options["momentum"],
        weight_decay=options["weight_decay"],
        schedule="cosine",
        schedule_by_epoch=True,
        warmup_epochs=options["warmup_epochs"],
        warmup_lr=options["warmup_lr"],
        cosine_over_run=True,
    )
    trainable = gather(arrays, "param/")
    parts = parts._replace(trainable=trainable)
    optimizer, rate = training.make_optimizer(chosen, trainable, plan)
    step = training.make_step(parts, optimizer, plan.steps)
    state = training.start(parts, optimizer)
    images, labels = pixels(arrays["in/pixel_values"]), arrays["in/label"].astype(np.int32)
    tolerance = meta["tolerance"]
    for i in range(plan.steps):
        lr = training.learning_rate(rate, state, i)
        yield Comparison(f"lr {i}", lr, arrays["out/lr"][i], tolerance["lr"])
        some = slice(i % each * batch, (i % each + 1) * batch)
        state, numbers = step(state, training.batch(images[some], labels[some]))
        allowed = limits(tolerance["loss"])
        yield Comparison(f"loss {i}", numbers["loss"], arrays["out/loss"][i], **allowed)
        ours, recorded = state.trainable["method/ctx"], arrays["out/ctx_after"][i]
        yield scaled(f"ctx {i}", ours, recorded, **limits(tolerance["ctx_after"]))


def compare_average(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the weights of epochs, and what a run of one step an epoch ends with."""
    from vpjax.train.averaging import epoch_weights

    meta.ignore("case", "kind")
    meta.expect("method", "promptsrc")
    options, allowed = meta["options"], meta["tolerance"]
    epochs, span = options["epochs"], (options["gpa_mean"], options["gpa_std"])
    yield Comparison("weights", epoch_weights(epochs, *span), arrays["out/weights"], allowed)
    after = arrays["in/values_after_epoch"]
    yield Comparison("epochs", len(after), epochs, 0.0)
    plain = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant"}
    chosen = training.settings(**plain, average_mean=span[0], average_std=span[1])
    optimizer, _ = training.make_optimizer(chosen, ["values"], training.Plan(epochs, 1, 1))
    values = {"values": jnp.zeros(after[0].shape)}
    state = optimizer.init(values)
    for target in after:
        updates, state = optimizer.update({"values": values["values"] - target}, state, values)
        values = {"values": values["values"] + updates["values"]}
    yield Comparison("average", values["values"], arrays["out/aggregated"], allowed)


def build(case: Case, meta: Record, arrays: Record, folder: Path) -> ModelParts:
    """Return the model of a case as `factory.build` makes it from files."""
    names, tokenize = meta["classes"], Words(case, meta["classes"], arrays)
    metadata = [{"name": name} for name in names]
    method = MethodSpec(case.method, case.options)
    with laid_out(folder, meta["backbone"]) as where, own_cache():
        if case.context:
            wanted = sentences_of(method.name, method.options)
            found = class_texts(str(where), names, metadata, wanted, tokenize=tokenize)
            of_clip = {"texts": found.texts}
        else:
            prompts = prompts_of_classes(names, metadata, templates=case.templates)
            text = load_text(str(where))
            features = encode_prompts(text.tower, tokenize, prompts.prompts)
            features = np.asarray(mean_over_templates(features, len(prompts.templates)))
            of_clip = {"text": features, "text_scale": text.scale}
        backbone = BackboneSpec("clip.CLIP", weights=str(where))
        parts, _ = factory.build(backbone, method, len(names), **of_clip)
    heads = merge(*parts).backbone.layers[0].attn.query.bias.shape[0]
    meta["heads"].ignore("text")
    if heads != meta["heads"]["vision"]:
        raise AssertionError(f"{heads} heads")
    return ModelParts(parts.graph, *jax.tree.map(jnp.asarray, tuple(parts[1:])))


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Keep text features of a case where no other finds them."""
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, VPJAX_CACHE=place):
        yield


class Words:
    """Stands for a tokenizer: knows the recorded sentences and the lengths of names."""

    def __init__(self, case: Case, names: Sequence[str], arrays: Record):
        ids = arrays["in/token_ids"]
        sentence = f"{case.context} {{name}}." if case.context else case.templates[0]
        self.rows = {sentence.format(name=n): row for n, row in zip(names, ids, strict=True)}
        if "in/template_token_ids" in arrays:
            several = zip(case.templates, arrays["in/template_token_ids"], strict=True)
            for template, rows in several:
                self.rows |= {
                    template.format(name=n): row for n, row in zip(names, rows, strict=True)
                }
        if "in/name_lens" in arrays:
            for name, length in zip(names, arrays["in/name_lens"], strict=True):
                row = np.zeros(ids.shape[1], np.int32)
                row[1 : 1 + length], row[1 + length] = 1, ids.max()
                self.rows.setdefault(name, row)
        self.other = ids[0]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.rows.get(text, self.other) for text in texts])


def gather(arrays: Record, prefix: str) -> dict[str, jax.Array]:
    """Return the arrays whose name begins with `prefix`, by our names."""
    found = under(arrays, prefix).items()
    return {translated(n): jnp.asarray(v.T if n.endswith(".weight") else v) for n, v in found}


def translated(name: str) -> str:
    """Return our name of a parameter."""
    for pattern, ours in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours).replace("weight", "kernel")
    for pattern, ours in LATER:
        if match := re.fullmatch(pattern, name):
            index, *rest = match.groups()
            return ours.format(int(index) + 1, *rest).replace("weight", "kernel")
    raise NotUnderstood(f"parameter {name}")


def context_of(words: str, count: int) -> str:
    """Return what stands before a name in the recorded texts."""
    return words or " ".join(["X"] * count)


def coop(options: Record) -> Case:
    """Return CoOp's options; with words it has one context for all classes, as published."""
    words, count = options.get("ctx_init", ""), options["n_ctx"]
    specific = options["csc"] and not words
    position = options["class_token_position"]
    chosen = {"num_tokens": options.get("n_ctx_asked", count), "init_words": words}
    if words and len(words.split()) != count:
        raise NotUnderstood(f"{count} context tokens of {words!r}")
    chosen |= {"class_specific": specific, "position": position}
    return Case("coop.CoOp", chosen, context_of(words, count))


def cocoop(options: Record) -> Case:
    """Return CoCoOp's options."""
    options.ignore("hidden", "n_ctx_asked")  # the hidden width is compared with the parameters
    words, count = options["ctx_init"], options["n_ctx"]
    chosen = {"num_tokens": count, "init_words": words}
    return Case("cocoop.CoCoOp", chosen, context_of(words, count))


def vpt_clip(options: Record) -> Case:
    """Return the options of VPT on CLIP."""
    chosen = {"num_tokens": options["n_ctx"], "depth": options["depth"]}
    template = options["template"].replace("{}", "{name}")
    return Case("vpt_clip.VPTCLIP", chosen, templates=(template,))


def ivlp(options: Record) -> Case:
    """Return IVLP's options."""
    options.ignore("ctx_init_asked")  # published code drops words for more than 4 tokens
    words, count = options["ctx_init"], options["n_ctx_text"]
    chosen = {"text_tokens": count, "text_depth": options["depth_text"], "init_words": words}
    chosen |= {"vision_tokens": options["n_ctx_vision"], "vision_depth": options["depth_vision"]}
    return Case("ivlp.IVLP", chosen, context_of(words, count))


def maple(options: Record) -> Case:
    """Return MaPLe's options."""
    options.ignore("ctx_init_asked")
    words, count = options["ctx_init"], options["n_ctx"]
    chosen = {"num_tokens": count, "depth": options["depth"], "init_words": words}
    return Case("maple.MaPLe", chosen, context_of(words, count))


def promptsrc(options: Record) -> Case:
    """Return PromptSRC's options."""
    case = ivlp(options)
    templates = [t.replace("{}", "{name}") for t in options["templates"]]
    weights = {f"{k}_weight": options[f"{k}_loss_weight"] for k in ("text", "image")}
    chosen = case.options | weights | {"templates": "; ".join(templates)}
    return case._replace(method="promptsrc.PromptSRC", options=chosen, templates=templates)


METHODS: dict[str, Callable[[Record], Case]] = {
    "coop": coop,
    "cocoop": cocoop,
    "vpt_clip": vpt_clip,
    "ivlp": ivlp,
    "maple": maple,
    "promptsrc": promptsrc,
}
