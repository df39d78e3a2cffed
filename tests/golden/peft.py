"""Cases of parameter-efficient tuning: outputs, gradients, what trains, and merged weights.

The backbone has timm's names; `tests/golden/peft_names.py` knows those of the methods. Where a case
holds masks, dropout uses them instead of random ones.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden import training
from tests.golden.comparison import Comparison, gradient, limits, scaled
from tests.golden.peft_names import METHODS, Names, options_of
from tests.golden.record import NotUnderstood, Record, under
from vpjax.backbones.vit import ViT
from vpjax.core import params
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import EVALUATION, Context

MODES = ("eval", "train, dropout masks given")


def finds(meta: Mapping) -> bool:
    """Return whether a case is of this kind."""
    return meta.get("method") in METHODS and "arch" in meta and "merged_stored" in meta


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield what a case recorded beside ours."""
    meta.ignore("case", "kind", "merged_by")
    meta.expect("mode", *MODES)
    model = build(meta)
    names = Names(model, meta["method"], meta["options"])
    recorded = names.parameters(under(arrays, "param/"))
    parts = training.filled(partition(model), recorded)
    learnt = {n for t in meta["trainable"] for n in names.gather({t: arrays[f"param/{t}"]})}
    if learnt != parts.trainable.keys():
        raise AssertionError(f"what trains: {sorted(learnt ^ parts.trainable.keys())}")
    yield from counts(meta, parts)

    ctx = masked(meta, under(arrays, "in/keep/"))
    images = jnp.asarray(arrays["in/image"].transpose(0, 2, 3, 1))
    labels = jnp.asarray(arrays["in/label"])

    @jax.jit
    def run(trainable):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, parts.stats, parts.frozen)
            out = model(images, ctx)
            return training.losses(model, out, labels, EVALUATION).mean(), out

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    (loss, out), grads = run(parts.trainable)
    if unused := ctx.keep.keys() - ctx.used:
        raise AssertionError(f"masks that nothing used: {sorted(unused)}")
    allowed = limits(meta["tolerance"]["outputs"])
    slopes = limits(meta["tolerance"]["gradients"])
    yield scaled("loss", loss, arrays["loss"], **allowed)
    for name in ("features", "logits"):
        yield scaled(name, out[name], arrays[f"out/{name}"], **allowed)
    for name, value in names.gather(under(arrays, "grad/")).items():
        yield gradient(f"grad {name}", grads[name], value, slopes["rtol"], slopes["atol"])
    if meta["merged_stored"]:
        full = merge(parts.graph, parts.trainable, parts.stats, parts.frozen)
        yield from compare_merged(full, names, arrays, images, allowed)


def counts(meta: Record, parts) -> Iterator[Comparison]:
    """Yield how many numbers train, with and without the head, and how many there are."""
    size = lambda part: sum(v.size for v in part.values())  # noqa: E731
    head = sum(v.size for n, v in parts.trainable.items() if n.startswith("method/head/"))
    yield Comparison("trainable", size(parts.trainable), meta["n_trainable"], 0.0)
    yield Comparison("of the method", size(parts.trainable) - head, meta["n_method"], 0.0)
    yield Comparison("all", size(parts.trainable) + size(parts.frozen), meta["n_total"], 0.0)


def build(meta: Record) -> Model:
    """Return the model of a case as shapes."""
    arch, options = meta["arch"], options_of(meta["method"], meta["options"], meta["arch"])
    if arch["pool"] not in ("token", "avg"):
        raise NotUnderstood(f"pool {arch['pool']}")
    mean = arch["pool"] == "avg"

    def make():
        rngs = nnx.Rngs(0)
        backbone = ViT(
            f"B/{arch['patch']}",
            tuple(arch["image_size"]),
            dim=arch["dim"],
            mlp_dim=arch["mlp_dim"],
            heads=arch["heads"],
            depth=arch["depth"],
            eps=arch["eps"],
            pool="mean" if mean else "token",
            final_norm=not mean,
            fc_norm=mean,
            rngs=rngs,
        )
        cls = METHODS[meta["method"]]
        return Model(backbone, cls(backbone, arch["classes"], rngs=rngs, **options))

    return nnx.eval_shape(make)


def compare_merged(
    model: Model, names: Names, arrays: Record, images: jax.Array, allowed: Mapping[str, float]
) -> Iterator[Comparison]:
    """Yield the folded weights, that no others change, and the bare backbone's logits."""
    folded = jax.jit(lambda m: m.method.fold(m.backbone))(model)
    recorded = names.gather(under(arrays, "out/merged/"))
    before = params.flatten(nnx.state(model.backbone))
    for name, value in folded.items():
        theirs = recorded.pop(f"backbone/{name}", before[name])
        yield scaled(f"merged {name}", value, theirs, **allowed)
    for name, value in recorded.items():  # what the reference lists as changed, and is not
        yield scaled(f"merged {name}", before[name.removeprefix("backbone/")], value, **allowed)
    graph, state = nnx.split(model.backbone)
    bare = nnx.merge(graph, params.fill(state, before | folded))
    logits = nnx.jit(lambda b, h: h(b(images), EVALUATION))(bare, model.method.head)
    yield scaled("merged logits", logits, arrays["out/merged_logits"], **allowed)


@dataclasses.dataclass(frozen=True)
class Masked(Context):
    """A context whose dropout keeps what a recording kept.

    Attributes:
        keep: masks by (layer, tag).
        rates: of each.
        used: the masks that were asked for.
    """

    keep: Mapping = dataclasses.field(default_factory=dict)
    rates: Mapping = dataclasses.field(default_factory=dict)
    used: set = dataclasses.field(default_factory=set)

    def dropout(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Apply the mask of this layer and tag; an error if there is none."""
        where = (self.layer, tag)
        if not self.keep or rate == 0.0:
            return x
        if abs(self.rates[where] - rate) > 1e-9:
            raise AssertionError(f"rate at {where} is {rate}, recorded {self.rates[where]}")
        self.used.add(where)
        keep = self.keep[where][:, : x.shape[1]]  # the last layer computes what is pooled
        return jnp.where(keep, x / (1 - rate), 0)


def masked(meta: Record, keep: Mapping[str, np.ndarray]) -> Masked:
    """Return a context with the masks of a case."""
    if bool(keep) != (meta["mode"] != "eval"):
        raise NotUnderstood(f"mode {meta['mode']} and {len(keep)} masks")
    rates = {one["site"]: one["rate"] for one in meta["dropout"]}
    if rates.keys() != keep.keys():
        raise NotUnderstood(f"masks of {sorted(rates.keys() ^ keep.keys())}")
    masks: dict = {}
    places = {site: tag_of(site) for site in keep}
    for site, mask in keep.items():
        flip = meta["method"].startswith("repadapter")  # B r S
        masks[places[site]] = jnp.asarray(mask.swapaxes(1, 2) if flip else mask)
    return Masked(keep=masks, rates={places[site]: rate for site, rate in rates.items()})


def tag_of(site: str) -> tuple[int, str]:
    """Return the layer and the tag of our dropout that a recorded name stands for."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.*)", site)
    if not match:
        raise NotUnderstood(f"mask of {site}")
    tag = re.sub(r"^(attn|mlp)\.", "linear.", match[2])
    return int(match[1]), {"adapter": "adapter.hidden", "adaptmlp": "adapter.hidden"}.get(tag, tag)
