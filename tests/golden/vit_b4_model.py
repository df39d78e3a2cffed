"""Models of the ViT-B/4 cases, and the original's parameters by our names.

Names are those of timm's ViT, with "model." before them where there are prompts.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import vpt_cifar
from tests.golden.record import Record, under
from vpjax.backbones.vit import ViT
from vpjax.core import params, registry
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition
from vpjax.weights import timm

PROMPTS = "prompt_embeddings.prompt_embeddings"


def build(meta: Record) -> tuple[Model, ModelParts]:
    """Return the model of a case as shapes; the recipe says which method its strategy is."""
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
            eps=meta.get("layer_norm_eps", 1e-6),
            rngs=rngs,
        )
        options = vpt_cifar.method(meta["method"].replace("+", ""))
        if config["prompts"]:
            options["num_tokens"] = config["prompts"]
        cls = registry.lookup("methods", options.pop("name"))
        return Model(backbone, cls(backbone, meta["num_classes"], rngs=rngs, **options))

    model = nnx.eval_shape(make)
    return model, partition(model)


def same_set(recorded: Iterable[str], parts: ModelParts) -> None:
    """Raise an AssertionError unless the same parameters train."""
    if set(recorded) != parts.trainable.keys():
        raise AssertionError(f"what trains: {sorted(set(recorded) ^ parts.trainable.keys())}")


def draw(model: Model, meta: Record) -> dict[str, np.ndarray]:
    """Return random parameters by the names of the original, made in ASCII order."""
    dim, classes = model.backbone.dim, meta["num_classes"]
    hidden, patch = meta["config"]["mlp"], meta["config"]["patch"]
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + model.backbone.grid[0] * model.backbone.grid[1], dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "head.weight": (classes, dim),
        "head.bias": (classes,),
    }
    for i in range(meta["config"]["layers"]):
        matrices = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
        matrices |= {"mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
        for part, shape in (matrices | {"norm1": (dim,), "norm2": (dim,)}).items():
            shapes[f"blocks.{i}.{part}.weight"] = shape
            shapes[f"blocks.{i}.{part}.bias"] = shape[:1]
    if meta["config"]["prompts"]:
        shapes = {f"model.{name}": shape for name, shape in shapes.items()}
        shapes[PROMPTS] = (meta["config"]["layers"], meta["config"]["prompts"], dim)
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
    """Bring one parameter to our names and shapes."""
    if name == PROMPTS:
        return {f"method/prompts/{i}": prompt for i, prompt in enumerate(value)}
    expected = params.flatten(nnx.state(model.backbone))
    short = name.removeprefix("model.")
    home = "method" if short.startswith("head.") else "backbone"
    found = timm.translate({short: value}, expected)
    return {f"{home}/{n}": v for n, v in found.items()}


def original(name: str, value: jax.Array) -> np.ndarray:
    """Return an array of ours as the original has it in memory, flat.

    Kernels of the original are (out, in), and (out, in, h, w). Those of attention have three axes
    here, the two of heads being one there: query, key and value (D, N, d), out (N, d, D).
    """
    value = np.asarray(value)
    if name.endswith("kernel"):
        if value.ndim == 3:
            inputs = 2 if name.endswith("attn/out/kernel") else 1
            value = value.reshape(int(np.prod(value.shape[:inputs])), -1)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value.ravel()


def gather(arrays: Record, prefix: str, model: Model) -> dict[str, np.ndarray]:
    """Return the arrays whose name begins with `prefix`, by our names."""
    out = {}
    for name, value in under(arrays, prefix).items():
        out |= translate(name, value, model)
    return out


def pixels(images: np.ndarray) -> jax.Array:
    """Return images B C H W as B H W C."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))
