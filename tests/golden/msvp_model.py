"""MS-VP as the recordings have it: models, names and layouts, and the recipe of parameters."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from tests.golden import training
from tests.golden.comparison import Comparison
from tests.golden.record import NotUnderstood, Record
from vpjax.backbones.cnn import CNN
from vpjax.backbones.resnet import ResNet
from vpjax.backbones.small_vit import SmallViT
from vpjax.core import params
from vpjax.methods.finetune import Full
from vpjax.methods.msvp import MSVP
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition
from vpjax.weights import msvp
from vpjax.weights.msvp import Place

NAMES = {CNN: "cnn", ResNet: "resnet", SmallViT: "small_vit"}


def build(meta: Record) -> Model:
    """Return the model of a case as shapes; no dropout acts in it."""
    config = meta.get("config", {})
    if meta["model"] == "vit" and isinstance(config, Record):
        config.ignore("dropout")  # switched off in every recording
    return assembled(meta["model"], tuple(meta["input_size"]), config, meta)


def assembled(name: str, size: tuple[int, int], config: Mapping, meta: Record) -> Model:
    """Return a network with the prompts of a case as shapes.

    Args:
        name: "cnn", "resnet18" or "vit".
        size: Height and width of the images.
        config: The network's own sizes; the published ones where they are left out.
        meta: The case: channels, prompts and classes.
    """

    def make():
        rngs = nnx.Rngs(0)
        common = {"channels": meta["in_channels"], "rngs": nnx.Rngs(0)}
        if name == "cnn":
            body = CNN(size, width=config.get("width", 32), dropout=(0.0, 0.0), **common)
        elif name == "resnet18":
            widths = tuple(config.get("width", 64) * 2**i for i in range(4))
            body = ResNet("18", size, stem="cifar", widths=widths, **common)
        elif name == "vit":
            body = small_vit(size, config, common)
        else:
            raise NotUnderstood(f"model {name}; known are cnn, resnet18 and vit")
        options = {k: meta[k] for k in ("fusion_type", "prompt_scales") if k in meta}
        cls = MSVP if meta.get("use_prompt", True) else Full
        return Model(body, cls(body, meta.get("num_classes", 10), rngs=rngs, **options))

    return nnx.eval_shape(make)


def small_vit(size: tuple[int, int], config: Mapping, common: dict) -> SmallViT:
    """Return the transformer of a case."""
    dim = config.get("embed_dim", 192)
    return SmallViT(
        f"Ti/{config.get('patch_size', 4 if size[0] == 32 else 7)}",
        size,
        dim=dim,
        mlp_dim=round(dim * config.get("mlp_ratio", 4.0)),
        heads=config.get("num_heads", 3),
        depth=config.get("depth", 12),
        dropout=0.0,
        attention_dropout=0.0,
        **common,
    )


def compare_shape(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield the shape of the images beside the one that the case states."""
    if name := next((n for n in ("in/x", "in/x0") if n in arrays), None):
        shape = (meta["in_channels"], *meta["input_size"])
        yield Comparison("shape of images", arrays[name].shape[1:], shape, 0.0)


def fill(model: Model, arrays: Mapping, prefix: str = "param/") -> ModelParts:
    """Return the model's parts with the recorded parameters."""
    return training.filled(partition(model), gather(model, arrays, prefix))


def gather(model: Model, arrays: Mapping, prefix: str) -> dict[str, np.ndarray]:
    """Return the recorded arrays of a kind, by our names and in our layouts."""
    found = {n: (f"{prefix}{p.name}", p) for n, p in places(model).items()}
    known = {theirs for theirs, _ in found.values()}
    extra = [n for n in arrays if n.startswith(prefix) and n not in known]
    counters = [n for n in extra if n.endswith("num_batches_tracked")]
    if isinstance(arrays, Record):
        arrays.ignore(*counters)  # steps done, which PyTorch's BatchNorm counts
    if extra := sorted(set(extra) - set(counters)):
        raise NotUnderstood(f"parameters {extra}")
    return {n: p.ours(arrays[theirs]) for n, (theirs, p) in found.items() if theirs in arrays}


def places(model: Model) -> dict[str, Place]:
    """Return the place of each of the model's arrays."""
    return {n: place(n, v.shape, model) for n, v in params.flatten(nnx.state(model)).items()}


def place(name: str, shape: tuple[int, ...], model: Model) -> Place:
    """Return the place of one array."""
    gated = getattr(model.method, "fusion_type", "") == "gated"
    return msvp.place(name, shape, NAMES[type(model.backbone)], gated)


def recipe_values(model: Model, seed: int) -> dict[str, np.ndarray]:
    """Return parameters by the recipe of the recordings, as if they had been recorded."""
    shapes = {p.name: p.shape for p in places(model).values()}
    rng, out = np.random.default_rng(seed), {}
    for name in sorted(shapes):
        z = rng.standard_normal(shapes[name])
        out[f"param/{name}"] = recipe(name, z).astype(np.float32)
    return out


def recipe(name: str, z: np.ndarray) -> np.ndarray:
    """Return scaled random numbers; the first rule that fits the name holds."""
    fan_in = math.prod(z.shape[1:])
    rules = (
        (name.endswith("running_var"), lambda: 0.75 + 0.25 * np.abs(z)),
        (name.endswith("running_mean"), lambda: 0.1 * z),
        (name.endswith("_prompt"), lambda: 0.3 * z),
        (name in ("cls_token", "pos_embed"), lambda: 0.2 * z),
        (z.ndim == 1 and name.endswith(".weight"), lambda: 1 + 0.1 * z),
        (name.endswith(".bias"), lambda: 0.1 * z),
        (name.startswith("features."), lambda: z * math.sqrt(2 / fan_in)),
        (True, lambda: z / math.sqrt(fan_in)),
    )
    return next(scaled() for fits, scaled in rules if fits)


def pixels(value: np.ndarray) -> np.ndarray:
    """Return images B C H W as B H W C."""
    return value.transpose(0, 2, 3, 1)
