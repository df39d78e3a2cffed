"""Cases of MoP on a tiny CLIP: terms, gradients, text features, assignments, a run with its resume.

mop_base, mop_hard, mop_k1, mop_zero_init, extras_diversity    a batch, several temperatures
mop_text     text features of classes
mop_viz      who gets which image
mop_train    24 steps by the library's own step, optimiser and checkpoints
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden.clip import load_vision, model, pixels
from tests.golden.runner import Comparison, NotUnderstood
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

LIMITS = {"atol": 1e-5, "rtol": 1e-5}


def find(meta: dict) -> Callable | None:
    """Returns what compares a case, None if it is none of these."""
    if meta.get("clip") is None:
        return None
    if "combos" in meta:
        return compare_batch
    if "conf" in meta:
        from tests.golden.mop_training import compare_training

        return compare_training
    if "class_index" in meta:
        return compare_assignments
    return compare_text if meta.get("order", "").startswith("class-major") else None


def build(meta: dict, arrays: dict, folder: Path, offsets: str, **options) -> ModelParts:
    """Returns the model with the recorded numbers."""
    text, first = arrays["param/base_text_features"], arrays[offsets]
    with model(folder, meta["clip"]) as where:
        backbone = load_vision(where)
    method = MoP(backbone, len(text), num_prompts=first.shape[1], rngs=nnx.Rngs(0), **options)
    parts = partition(Model(backbone, method))
    if set(parts.trainable) != {"method/offsets"} or "method/text" not in parts.frozen:
        raise AssertionError(f"what trains: {sorted(parts.trainable)}")
    frozen = parts.frozen | {"method/text": jnp.asarray(text)}
    return parts._replace(trainable={"method/offsets": jnp.asarray(first)}, frozen=frozen)


def compare_batch(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Terms and gradients of every combination; what they are made of."""
    fixed = {
        "offset_reg_weight": meta["offset_reg_weight"],
        "assignment": "hard" if meta["use_hard_assignment"] else "soft",
        "anneal": False,
        "diversity_weight": meta.get("diversity_loss_weight", 0.0),
    }
    if meta["sim_scale"] != SCALE:
        raise NotUnderstood(f"scale {meta['sim_scale']}")
    images, labels = pixels(arrays["in/images"]), jnp.asarray(arrays["in/labels"])
    for i, combo in enumerate(meta["combos"]):
        options = fixed | {"tau_start": combo["tau"], "tau_end": combo["tau"]}
        options |= {k: combo[k] for k in ("lambda_mixture", "temp_cls")}
        for chunk in (0, 2):  # the last of them overlaps the one before
            name = "param/prompt_offsets"
            parts = build(meta, arrays, folder, name, chunk=chunk, **options)
            (loss, (out, terms, gamma)), grads = gradient(parts, images, labels, combo["tau"])
            found = {"gamma": gamma, "loss_total": loss} | terms
            found = add_constants(meta, found) if "diversity_loss_weight" in meta else found
            yield from compare_terms(f"combo{i}", found, grads["method/offsets"], arrays)
        if i == 0:
            yield Comparison("loss", found["loss_total"], arrays["loss"], 0.0, 1e-5)
            yield from compare_outputs(combo["temp_cls"], parts, out, labels, arrays)


def gradient(parts: ModelParts, images: jax.Array, labels: jax.Array, tau: float) -> tuple:
    """Returns (loss, (outputs, terms averaged, gamma)) and gradients, as in training."""

    @jax.jit
    def run(trainable, stats, frozen):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, stats, frozen)
            ctx = Context(key=jax.random.key(0))
            out = model(images, ctx)
            terms = model.method.loss_terms(out, labels, ctx)
            terms = {n: v.mean() for n, v in terms.items()}
            gamma = model.method.assign(out["features"], labels, tau)
            return terms.pop("loss"), (out, terms, gamma)

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    return run(*parts[1:])


def add_constants(meta: dict, found: dict) -> dict:
    """Adds the published terms that have no gradient to the loss."""
    gamma = found["gamma"]
    even = jnp.full(len(gamma), 1 / len(gamma), jnp.float32)
    entropy = mop_similarity.negative_entropy(gamma).mean()
    usage = mop_similarity.usage_imbalance(gamma, even, meta["min_usage_threshold"])
    total = found["loss_total"] + meta["entropy_loss_weight"] * entropy
    total += meta["min_usage_loss_weight"] * usage
    return found | {"loss_total": total, "loss_entropy": entropy, "loss_min_usage": usage}


def compare_terms(combo: str, found: dict, grad: jax.Array, arrays: dict) -> Iterator[Comparison]:
    """Losses, assignments and the gradient of one combination."""
    recorded = {n.rpartition("/")[2]: v for n, v in arrays.items() if n.startswith(f"out/{combo}/")}
    if missing := recorded.keys() - found.keys():
        raise NotUnderstood(f"terms {sorted(missing)}")
    for name, value in recorded.items():
        atol = 1e-5 if name == "gamma" else 0.0
        yield Comparison(f"{combo} {name}", found[name], value, atol, 1e-5)
    value = arrays[f"grad/{combo}/prompt_offsets"]
    yield Comparison(f"{combo} gradient", grad, value, 1e-4 * np.abs(value).max())


def compare_outputs(
    temp: float, parts: ModelParts, out: dict, labels: jax.Array, arrays: dict
) -> Iterator[Comparison]:
    """Features, prompts, similarities, winners and predictions."""
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
        yield Comparison(name, value, arrays[f"out/{name}"], **LIMITS)
    yield Comparison("best_subprompt", out["winners"], arrays["out/best_subprompt"], 0.0)
    yield Comparison("preds", out["logits"].argmax(-1), arrays["out/preds"], 0.0)


def compare_text(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Prompts of the classes, their features, and one vector a class."""
    templates = choose("auto", meta["metadata"])
    prompts = class_prompts(meta["metadata"], templates)
    if prompts != meta["prompts"]:
        raise AssertionError("prompts differ")
    with model(folder, meta["clip"]) as where:
        tower = load_text(str(where)).tower
    ids = arrays["in/token_ids"]
    ids_of = lambda texts: ids[[prompts.index(t) for t in texts]]  # noqa: E731
    features = encode_prompts(tower, ids_of, prompts)
    yield Comparison("prompts", features, arrays["out/per_prompt_features_raw"], **LIMITS)
    ours = mean_over_templates(features, len(templates))
    yield Comparison("classes", ours, arrays["out/base_text_features"], **LIMITS)


def compare_assignments(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Gammas of a class's images, and each sub-prompt's most typical ones."""
    parts = build(meta, arrays, folder, "param/prompt_offsets")
    images = pixels(arrays["in/images"])
    labels = jnp.full(len(images), meta["class_index"], jnp.int32)

    @jax.jit
    def assign(*numbers):
        whole = merge(parts.graph, *numbers)
        features = whole(images, EVALUATION)["features"]
        return whole.method.assign(features, labels, meta["tau"])

    gamma = np.asarray(assign(*parts[1:]))
    yield Comparison("gamma", gamma, arrays["out/gamma"], **LIMITS)
    index = top(gamma, meta["top_n"])
    yield Comparison("topn_index", index, arrays["out/topn_index"], 0.0)
    yield Comparison(
        "topn_gamma", np.take_along_axis(gamma.T, index, 1), arrays["out/topn_gamma"], **LIMITS
    )
