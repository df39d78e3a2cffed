"""Models of the ViT-B/4 cases, and the original's parameters by our names.

Names are those of timm's ViT, with "model." before them where there are prompts.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import vpt_cifar
from vpjax.backbones.vit import ViT
from vpjax.core import params, registry
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition
from vpjax.weights import timm

PROMPTS = "prompt_embeddings.prompt_embeddings"


def build(meta: dict) -> tuple[Model, ModelParts]:
    """Returns the model of a case as shapes, by the recipe's choice of method."""
    config = meta["config"]

    def make():
        rngs = nnx.Rngs(0)
        backbone = ViT(
            f"B/{config['patch']}",
            config["img"],
            dim=config["hidden"],
            mlp_dim=config["mlp"],
            heads=config["heads"],
            depth=config["layers"],
            dropout=0.0,
            rngs=rngs,
        )
        options = vpt_cifar.method(meta["method"].replace("+", ""))
        if config["prompts"]:
            options["num_tokens"] = config["prompts"]
        cls = registry.lookup("methods", options.pop("name"))
        return Model(backbone, cls(backbone, meta["num_classes"], rngs=rngs, **options))

    model = nnx.eval_shape(make)
    return model, partition(model)


def filled(parts: ModelParts, values: dict[str, np.ndarray]) -> ModelParts:
    """Returns parts that hold numbers instead of shapes."""
    fill = lambda part: {n: jnp.asarray(values[n]) for n in part}  # noqa: E731
    return ModelParts(parts.graph, *(fill(part) for part in parts[1:]))


def same_set(recorded: Iterable[str], parts: ModelParts) -> None:
    """Checks that the same parameters train."""
    if set(recorded) != parts.trainable.keys():
        raise AssertionError(f"what trains: {sorted(set(recorded) ^ parts.trainable.keys())}")


def draw(model: Model, meta: dict) -> dict[str, np.ndarray]:
    """Draws parameters by the names of the original, in ASCII order."""
    dim, heads = model.backbone.dim, meta["num_classes"]
    hidden, patch = meta["config"]["mlp"], meta["config"]["patch"]
    shapes = {
        PROMPTS: (meta["config"]["layers"], meta["config"]["prompts"], dim),
        "model.cls_token": (1, 1, dim),
        "model.pos_embed": (1, 1 + model.backbone.grid[0] * model.backbone.grid[1], dim),
        "model.patch_embed.proj.weight": (dim, 3, patch, patch),
        "model.patch_embed.proj.bias": (dim,),
        "model.norm.weight": (dim,),
        "model.norm.bias": (dim,),
        "model.head.weight": (heads, dim),
        "model.head.bias": (heads,),
    }
    for i in range(meta["config"]["layers"]):
        matrices = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
        matrices |= {"mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
        for part, shape in (matrices | {"norm1": (dim,), "norm2": (dim,)}).items():
            shapes[f"model.blocks.{i}.{part}.weight"] = shape
            shapes[f"model.blocks.{i}.{part}.bias"] = shape[:1]
    rng, out = np.random.default_rng(meta["seed"]), {}
    for name in sorted(shapes):
        z = rng.standard_normal(shapes[name])
        if name.endswith(("cls_token", "pos_embed", "prompt_embeddings")):
            z = 0.2 * z
        elif z.ndim == 1:
            z = 1 + 0.1 * z if name.endswith(".weight") else 0.1 * z
        else:
            z = z / np.sqrt(np.prod(z.shape[1:]))
        out[name] = z.astype(np.float32)
    return out


def translate(name: str, value: np.ndarray, model: Model) -> dict[str, np.ndarray]:
    """Brings one parameter to our names and shapes."""
    if name == PROMPTS:
        return {f"method/prompts/{i}": prompt for i, prompt in enumerate(value)}
    expected = params.flatten(nnx.state(model.backbone))
    short = name.removeprefix("model.")
    home = "method" if short.startswith("head.") else "backbone"
    found = timm.translate({short: value}, expected)
    return {f"{home}/{n}": v for n, v in found.items()}


def original(name: str, value: jax.Array) -> np.ndarray:
    """Flattens an array of ours in the order of the original's axes."""
    value = np.asarray(value)
    if name.endswith("kernel"):
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value.ravel()


def gather(arrays: dict, prefix: str, model: Model) -> dict[str, np.ndarray]:
    """Returns the arrays whose name begins with `prefix`, by our names."""
    out = {}
    for name, value in arrays.items():
        if name.startswith(prefix):
            out |= translate(name.removeprefix(prefix), value, model)
    return out


def pixels(images: np.ndarray) -> jax.Array:
    """B C H W to B H W C."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))
