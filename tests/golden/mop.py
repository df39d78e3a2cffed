"""Cases of MoP on a tiny CLIP: terms, gradients, text features, assignments, a run with its resume.

mop_base, mop_hard, mop_k1, mop_zero_init, extras_diversity    a batch, several temperatures
mop_text     text features of classes
mop_viz      which sub-prompt gets which image
mop_train    24 steps by the library's own step, optimizer and checkpoints
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden import training
from tests.golden.clip import load_vision, model, pixels
from tests.golden.comparison import (
    SLOPES,
    Comparison,
    gradient,
    numbers,
    outputs,
    scaled,
    summed,
)
from tests.golden.record import NotUnderstood, Record, nearest, under
from vpjax.methods.mop import SCALE, MoP
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.features import mean_over_templates
from vpjax.models.text.pretrained import load_text
from vpjax.models.text.templates import choose, class_prompts
from vpjax.nn import mop_similarity
from vpjax.nn.context import EVALUATION, Context
from vpjax.report.plots.subprompts import top


def find(meta: Mapping[str, Any]) -> Callable | None:
    """Return what compares a case, None if it is none of these."""
    if meta.get("clip") is None:
        return None
    if "combos" in meta:
        return compare_batch
    if "conf" in meta:
        from tests.golden.mop_training import compare_training

        return compare_training
    if "class_index" in meta:
        return compare_assignments
    return compare_text if {"prompts", "T"} <= meta.keys() else None


def build(meta: Record, arrays: Record, folder: Path, offsets: str, **options) -> ModelParts:
    """Return the model with the recorded text features and offsets."""
    text, first = arrays["param/base_text_features"], arrays[offsets]
    with model(folder, meta["clip"]) as where:
        backbone = load_vision(where)
    method = MoP(backbone, len(text), num_prompts=first.shape[1], rngs=nnx.Rngs(0), **options)
    parts = partition(Model(backbone, method))
    if set(parts.trainable) != {"method/offsets"} or "method/text" not in parts.frozen:
        raise AssertionError(f"what trains: {sorted(parts.trainable)}")
    frozen = parts.frozen | {"method/text": jnp.asarray(text)}
    return parts._replace(trainable={"method/offsets": jnp.asarray(first)}, frozen=frozen)


def compare_batch(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield terms and gradients of every combination, and what they are made of.

    Each combination has a temperature of its own and no progress, so that annealing does nothing.
    """
    meta.ignore("seed", "offset_std", "use_semantic_init", "metadata")
    meta.expect("sim_scale", SCALE)
    fixed = {
        "offset_reg_weight": meta["offset_reg_weight"],
        "assignment": "hard" if meta["use_hard_assignment"] else "soft",
        "anneal": meta.get("use_tau_annealing", False),
        "diversity_weight": meta.get("diversity_loss_weight", 0.0),
    }
    images, labels = pixels(arrays["in/images"]), jnp.asarray(arrays["in/labels"])
    sizes = tuple(meta[key] for key in "CKD")
    yield Comparison("sizes", arrays["param/prompt_offsets"].shape, sizes, 0.0)
    yield Comparison("batch", len(images), meta["B"], 0.0)
    for i, combo in enumerate(meta["combos"]):
        options = fixed | {"tau_start": combo["tau"], "tau_end": combo["tau"]}
        options |= {k: combo[k] for k in ("lambda_mixture", "temp_cls")}
        for chunk in (0, 2):  # the last of them overlaps the one before
            name = "param/prompt_offsets"
            parts = build(meta, arrays, folder, name, chunk=chunk, **options)
            (loss, (out, terms, gamma)), grads = differentiated(parts, images, labels, combo["tau"])
            found = {"gamma": gamma, "loss_total": loss} | terms
            found = add_constants(meta, found)
            yield from compare_terms(meta, f"combo{i}", found, grads["method/offsets"], arrays)
        if i == 0:
            yield from compare_outputs(meta, combo["temp_cls"], parts, out, labels, arrays)
            first = arrays["out/combo0/loss_total"], arrays["grad/combo0/prompt_offsets"]
            yield Comparison("loss, stored twice", first[0], arrays["loss"], 0.0)
            again = arrays["grad/prompt_offsets"]
            yield Comparison("gradient, stored twice", first[1], again, 0.0)


def differentiated(parts: ModelParts, images: jax.Array, labels: jax.Array, tau: float) -> tuple:
    """Return (loss, (outputs, averaged terms, gamma)) and gradients, as in training."""

    @jax.jit
    def run(trainable, stats, frozen):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, stats, frozen)
            ctx = Context(key=jax.random.key(0))
            out = model(images, ctx)
            terms = training.loss_terms(model, out, labels, ctx)
            terms = {n: v.mean() for n, v in terms.items()}
            gamma = model.method.assign(out["features"], labels, tau)
            return terms.pop("loss"), (out, terms, gamma)

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    return run(*parts[1:])


def add_constants(meta: Record, found: dict) -> dict:
    """Return the terms with the published ones that have no gradient, where a case has those."""
    gamma, total, more = found["gamma"], found["loss_total"], {}
    if "entropy_loss_weight" in meta:
        more["loss_entropy"] = mop_similarity.negative_entropy(gamma).mean()
        total += meta["entropy_loss_weight"] * more["loss_entropy"]
    if "min_usage_loss_weight" in meta:
        even = jnp.full(len(gamma), 1 / len(gamma), jnp.float32)
        more["loss_min_usage"] = mop_similarity.usage_imbalance(
            gamma, even, meta["min_usage_threshold"]
        )
        total += meta["min_usage_loss_weight"] * more["loss_min_usage"]
    return found | more | {"loss_total": total}


def compare_terms(
    meta: Record, combo: str, found: dict, grad: jax.Array, arrays: Record
) -> Iterator[Comparison]:
    """Yield losses, assignments and the gradient of one combination."""
    recorded, limits = under(arrays, f"out/{combo}/"), outputs(meta)
    terms = [value for name, value in recorded.items() if name.startswith("loss_")]
    for name, value in recorded.items():
        if name not in found:
            raise NotUnderstood(f"term {name!r}{nearest(name, found)}")
        whole = f"{combo} {name}"
        if name == "loss_total":
            yield summed(whole, found[name], value, terms, limits["rtol"])
        elif name in ("gamma", "loss_cls"):  # near 0 they are exponentials of large differences
            yield scaled(whole, found[name], value, **limits)
        else:
            yield Comparison(whole, found[name], value, 0.0, limits["rtol"])
    share, _ = numbers(SLOPES, meta["tolerance"])
    yield gradient(f"{combo} gradient", grad, arrays[f"grad/{combo}/prompt_offsets"], share)


def compare_outputs(
    meta: Record, temp: float, parts: ModelParts, out: dict, labels: jax.Array, arrays: Record
) -> Iterator[Comparison]:
    """Yield features, prompts, similarities, winners and predictions."""
    offsets, text = parts.trainable["method/offsets"], parts.frozen["method/text"]
    prompts, f = mop_similarity.unit(text[:, None] + offsets), out["features"]
    own, _ = mop_similarity.label_similarity(f, labels, offsets, text)
    ours = {
        "image_features_normalized": f,
        "all_prompts": prompts,
        "sims_unscaled": jnp.einsum("bd,ckd->bck", f, prompts),
        "class_logits_scaled": temp * out["logits"],
        "sims_own_class": SCALE * own,
    }
    for name, value in ours.items():
        yield scaled(name, value, arrays[f"out/{name}"], **outputs(meta))
    yield Comparison("best_subprompt", out["winners"], arrays["out/best_subprompt"], 0.0)
    yield Comparison("preds", out["logits"].argmax(-1), arrays["out/preds"], 0.0)


def compare_text(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the features of the classes' prompts, and one vector a class."""
    meta.expect("order", "class-major: all templates of class 0, then class 1 ...")
    classes, limits = meta.whole("metadata"), outputs(meta)
    templates = choose("auto", classes)
    prompts = class_prompts(classes, templates)
    yield Comparison("sizes", (len(classes), len(templates)), (meta["C"], meta["T"]), 0.0)
    if prompts != meta["prompts"]:
        raise AssertionError("prompts differ")
    with model(folder, meta["clip"]) as where:
        tower = load_text(str(where)).tower
    ids = arrays["in/token_ids"]
    ids_of = lambda texts: ids[[prompts.index(t) for t in texts]]  # noqa: E731
    features = encode_prompts(tower, ids_of, prompts)
    yield scaled("prompts", features, arrays["out/per_prompt_features_raw"], **limits)
    ours = mean_over_templates(features, len(templates))
    yield scaled("classes", ours, arrays["out/base_text_features"], **limits)


def compare_assignments(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield assignments of a class's images, and each sub-prompt's most typical ones."""
    limits = outputs(meta)
    parts = build(meta, arrays, folder, "param/prompt_offsets")
    images = pixels(arrays["in/images"])
    labels = jnp.full(len(images), meta["class_index"], jnp.int32)

    @jax.jit
    def assign(*numbers):
        whole = merge(parts.graph, *numbers)
        features = whole(images, EVALUATION)["features"]
        return whole.method.assign(features, labels, meta["tau"])

    gamma = np.asarray(assign(*parts[1:]))
    yield scaled("gamma", gamma, arrays["out/gamma"], **limits)
    index = top(gamma, meta["top_n"])
    yield Comparison("topn_index", index, arrays["out/topn_index"], 0.0)
    ours = np.take_along_axis(gamma.T, index, 1)
    yield scaled("topn_gamma", ours, arrays["out/topn_gamma"], **limits)
