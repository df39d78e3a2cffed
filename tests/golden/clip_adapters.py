"""CLIP-Adapter and Tip-Adapter, whose texts are fixed.

clip_adapter*   a batch through a tiny CLIP: features, logits, loss, gradients
tip_adapter     features only: the cache, logits, the search, six steps of the library's AdamW
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden import training
from tests.golden.clip import load_vision, model, pixels
from tests.golden.comparison import Comparison, limits, scaled
from tests.golden.record import Record
from vpjax.backbones.clip import CLIP
from vpjax.methods.clip_adapter import CLIPAdapter
from vpjax.methods.tip_adapter import TipAdapter, TipAdapterF
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.features import mean_over_templates
from vpjax.models.text.pretrained import load_text
from vpjax.nn.context import EVALUATION
from vpjax.nn.mop_similarity import unit
from vpjax.runs.features import HeadModel


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield what a case recorded beside ours."""
    meta.ignore("case", "kind")
    return (compare_tip if meta["method"] == "tip_adapter" else compare_adapter)(
        meta, arrays, folder
    )


def compare_adapter(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield features, logits, loss and gradients."""
    options, classes = meta["options"], meta["classes"]
    meta.ignore("heads")  # config.json beside the weights has them
    options.expect("template", "a photo of a {}.")
    with model(folder, meta["backbone"]) as where:
        backbone, text = load_vision(where), load_text(str(where))
    ids = arrays["in/token_ids"]
    rows = encode_prompts(text.tower, lambda texts: ids[[classes.index(t) for t in texts]], classes)
    features = mean_over_templates(rows, 1)
    sizes = {"ratio": options["ratio"], "reduction": options["reduction"]}
    method = CLIPAdapter(backbone, len(classes), rngs=nnx.Rngs(0), **sizes)
    parts = partition(Model(backbone, method))
    ours = {"adapter.fc.0.weight": "method/down", "adapter.fc.2.weight": "method/up"}
    learns = {ours[name] for name in meta["trainable"]}
    if learns != parts.trainable.keys() or meta["trainable_without_gradient"]:
        raise AssertionError(f"what trains: {sorted(parts.trainable)}")
    count = sum(v.size for v in parts.trainable.values())
    yield Comparison("trainable count", count, meta["n_trainable"], 0.0)
    trainable = {ours[n]: jnp.asarray(arrays[f"param/{n}"].T) for n in ours}
    frozen = parts.frozen | {"method/text": features, "method/scale": jnp.float32(text.scale)}
    images, labels = pixels(arrays["in/pixel_values"]), jnp.asarray(arrays["in/label"])

    @jax.jit
    def run(trainable):
        def loss_fn(trainable):
            whole = merge(parts.graph, trainable, parts.stats, frozen)
            out = whole(images, EVALUATION)
            raw = whole.backbone(images)
            return training.losses(whole, out, labels, EVALUATION).mean(), (out, raw)

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    outputs, slopes = (limits(meta["tolerance"][kind]) for kind in ("outputs", "gradients"))
    (loss, (out, raw)), grads = run(trainable)
    yield scaled("raw features", raw, arrays["out/raw_features"], **outputs)
    yield scaled("text features", features, arrays["out/text_features"], **outputs)
    yield scaled("features", out["features"], arrays["out/features"], **outputs)
    yield scaled("logits", out["logits"], arrays["out/logits"], **outputs)
    yield scaled("loss", loss, arrays["loss"], **outputs)
    for name, mine in ours.items():
        yield scaled(f"grad {name}", grads[mine].T, arrays[f"grad/{name}"], **slopes)


def compare_tip(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield the cache, logits, the search, and fine-tuning."""
    options, same = meta["options"], limits(meta["tolerance"]["outputs"])
    views = arrays["in/train_features"]
    labels = arrays["in/train_label"]
    yield Comparison("passes", len(views), options["views"], 0.0)
    text = arrays["in/text_features"]  # C templates D
    rows = text.reshape(-1, text.shape[-1])
    weights = mean_over_templates(rows, text.shape[1])
    yield scaled("class weights", weights.T, arrays["out/class_weights"], **same)

    build = functools.partial(made, options, weights)
    key = jax.random.key(0)  # nothing is drawn
    body = tiny(text.shape[-1])
    found = build(TipAdapter).start_values(body, views.mean(0), jnp.asarray(labels), key)
    tip = build(TipAdapter, **found)
    order, at = places(labels)
    keys = arrays["param/cache_keys"].T
    yield scaled("keys", tip.keys[...][at], keys[order], **same)
    values = np.eye(options["classes"], dtype=np.float32)[labels]
    yield Comparison("values", values, arrays["param/cache_values"], 0.0)
    yield Comparison("filled", tip.filled[...].sum(1), values.sum(0), 0.0)

    f = unit(jnp.asarray(arrays["in/test_features"]))
    affinity, out = tip.affinity(f), tip.classify(f, EVALUATION)
    yield scaled("affinity", affinity[:, *at], arrays["out/affinity"][:, order], **same)
    yield scaled("cache", out["cache"], arrays["out/cache_logits"], **same)
    yield scaled("texts", tip.texts(f), arrays["out/clip_logits"], **same)
    yield scaled("logits", out["logits"], arrays["out/logits"], **same)
    arrays.ignore("in/label_test")

    betas, alphas = tip.grids
    yield Comparison("beta grid", betas, arrays["out/beta_grid"], 1e-6)
    yield Comparison("alpha grid", alphas, arrays["out/alpha_grid"], 1e-6)
    val = jnp.asarray(arrays["in/val_features"]), jnp.asarray(arrays["in/label_val"])
    chosen = jax.jit(tip.search)(*val)
    for name in ("beta", "alpha"):
        yield Comparison(f"searched {name}", chosen[name], arrays[f"out/search_{name}"], 1e-6)
    yield from compare_steps(meta, arrays, build(TipAdapterF, **found))


def compare_steps(meta: Record, arrays: Record, tip: TipAdapterF) -> Iterator[Comparison]:
    """Yield learning rate, loss, gradient and keys of each step of the library."""
    options, labels = meta["options"], arrays["in/train_label"]
    order, at = places(labels)
    parts = partition(HeadModel(tiny(tip.keys.shape[-1]), tip))
    count = int(tip.filled[...].sum()) * tip.keys.shape[-1]
    yield Comparison("trainable count", count, meta["n_trainable"], 0.0)
    if meta["trainable"] != ["cache_keys"] or parts.trainable.keys() != {"method/keys"}:
        raise AssertionError(f"what trains: {sorted(parts.trainable)}")
    each, epochs = options["steps_per_epoch"], options["epochs"]
    plan = training.Plan(each * epochs, each, len(labels) // each)
    settings = training.settings(
        name="adamw",
        lr=options["lr"],
        eps=options["adamw_eps"],
        weight_decay=options["weight_decay"],
    )
    optimizer, rate = training.make_optimizer(settings, parts.trainable, plan)
    state = training.start(parts, optimizer)
    step = training.make_step(parts, optimizer, plan.steps)
    same, after = limits(meta["tolerance"]["outputs"]), meta["tolerance"]["weight_after"]["atol"]
    for i, some in enumerate(epoch_batches(arrays["in/finetune_features"], labels, each)):
        yield scaled(f"lr {i}", training.learning_rate(rate, state, i), arrays["out/f/lr"][i], 1e-9)
        slope = gradient(parts, state.trainable, some)["method/keys"]
        yield scaled(f"grad {i}", slope[at], arrays["out/f/grad"][i][order], **same)
        state, numbers = step(state, some)
        yield scaled(f"loss {i}", numbers["loss"], arrays["out/f/loss"][i], **same)
        keys = state.trainable["method/keys"][at]
        yield Comparison(f"keys {i}", keys, arrays["out/f/weight_after"][i][order], after)


def epoch_batches(features: np.ndarray, labels: np.ndarray, each: int) -> Iterator[dict]:
    """Yield the batches of all epochs: features (epochs n D) in `each` parts of equal size."""
    for rows in features:
        for x, y in zip(np.split(rows, each), np.split(labels, each), strict=True):
            yield {"image": x, "label": y, "mask": np.ones(len(y), bool)}


def gradient(parts: tuple, trainable: dict, some: dict) -> dict:
    """Return the gradient of a batch's mean loss, by the library's own step and plain descent."""
    plain, _ = training.make_optimizer(
        training.settings(name="sgd", lr=1.0, momentum=0.0, schedule="constant"),
        trainable,
        training.Plan(1, 1, 1),
    )
    copy = parts._replace(trainable=jax.tree.map(jnp.array, trainable))
    state, _ = training.make_step(copy, plain, 1)(training.start(copy, plain), some)
    return {n: trainable[n] - v for n, v in state.trainable.items()}


def made(
    options: Record, text: jax.Array, cls: type[TipAdapter], **values: jax.Array
) -> TipAdapter:
    """Return the method of the case, with a cache if one is given."""
    names = {"shots": "shots", "passes": "views", "alpha": "alpha", "beta": "beta"}
    chosen = {ours: options[theirs] for ours, theirs in names.items()}
    for kind in ("scale", "step"):
        ours = f"search_{kind}{'s' * (kind == 'step')}"
        chosen[ours] = tuple(options[f"search_{kind}"])
    tip = cls(tiny(text.shape[1]), options["classes"], rngs=nnx.Rngs(0), **chosen)
    tip.text[...] = text
    for name, value in values.items():
        getattr(tip, name)[...] = value
    return tip


def tiny(dim: int) -> CLIP:
    """Return an image tower with features `dim` wide; nothing else of it is used."""
    sizes = {"patch_size": 4, "dim": 4, "mlp_dim": 4, "heads": 1, "depth": 1, "joint_dim": dim}
    return CLIP("B/16", 8, **sizes, rngs=nnx.Rngs(0))


def places(labels: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the order of the recorded images by class, and where each is in the cache."""
    order = np.argsort(labels, kind="stable")
    place = [int((labels[:i] == labels[i]).sum()) for i in order]
    return order, (labels[order], np.array(place))
