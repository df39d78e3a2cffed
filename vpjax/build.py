"""From a config to a model with numbers.

The model is first built abstractly (shapes only), then each number comes from exactly one place:
the weights file for the backbone, a seeded draw for the rest. Nothing is drawn to be overwritten.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vpjax import names
from vpjax.attention import resolve
from vpjax.errors import UserError
from vpjax.model import Model, Parts, take_apart
from vpjax.weights.load import Loaded, load


def build(
    config: ConfigDict, num_classes: int, attention: str = "xla"
) -> tuple[Parts, Loaded | None]:
    """Returns the model's parts, on the default device, and what was loaded.

    Raises: UserError if names, options or weights do not fit.
    """
    abstract = nnx.eval_shape(lambda: make(config, num_classes, attention))
    parts = take_apart(abstract, config.train.trainable)
    drawn = {n for part in parts[1:] for n in part}

    loaded, values = None, {}
    if config.backbone.weights:
        state = names.flatten(nnx.state(abstract.backbone))
        loaded = load(config.backbone.weights, state, abstract.backbone.grid, config.backbone.head)
        values = {f"backbone/{n}": v for n, v in loaded.values.items()}
        values |= head_values(loaded, num_classes)
        drawn -= values.keys()

    draw = lambda key: pick(nnx.state(make(config, num_classes, attention, key)), drawn)  # noqa: E731
    fresh = jax.jit(draw)(jax.random.key(config.seed))
    values = {n: jnp.asarray(v) for n, v in values.items()} | fresh
    fill = lambda part: {n: values[n] for n in part}  # noqa: E731
    frozen = stored(fill(parts.frozen), jnp.dtype(config.dtype))
    return Parts(parts.graph, fill(parts.trainable), fill(parts.stats), frozen), loaded


def make(config: ConfigDict, num_classes: int, attention: str, key: Any = None) -> Model:
    """Constructs backbone and method. Their draws are independent of each other."""
    key = jax.random.key(0) if key is None else key
    backbone = make_backbone(config, attention, jax.random.fold_in(key, 0))
    rngs = nnx.Rngs(jax.random.fold_in(key, 1))
    method = names.construct("methods", config.method, backbone, num_classes, rngs=rngs)
    return Model(backbone, method)


def make_backbone(config: ConfigDict, attention: str, key: Any) -> nnx.Module:
    """Constructs the backbone; where its weights come from is not its business."""
    options = {k: v for k, v in config.backbone.items() if k not in ("weights", "head")}
    return names.construct("backbones", options, attention=attention, rngs=nnx.Rngs(key))


def resolve_attention(config: ConfigDict) -> str:
    """Returns the attention implementation that will run; see `vpjax.attention`."""
    backbone = nnx.eval_shape(lambda: make_backbone(config, "xla", jax.random.key(0)))
    return resolve(config.attention, jnp.dtype(config.dtype), backbone.head_dim)


def head_values(loaded: Loaded, num_classes: int) -> dict[str, Any]:
    """Returns the file's head by our names; it must have as many classes as the data."""
    if loaded.head and loaded.head["bias"].shape != (num_classes,):
        raise UserError(
            f"weights {loaded.path}: the head has {len(loaded.head['bias'])} classes, the data "
            f"{num_classes}. Use backbone.head='new'."
        )
    return {f"method/head/{n}": v for n, v in loaded.head.items()}


def pick(state: nnx.State, chosen: set[str]) -> dict[str, jax.Array]:
    """Returns the chosen arrays by name; inside `jit` the others are never computed."""
    return {n: v for n, v in names.flatten(state).items() if n in chosen}


def stored(frozen: dict[str, jax.Array], dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Keeps frozen matrices in the dtype they are used in; they would be cast at every use."""
    return {n: v.astype(dtype) if n.endswith("kernel") else v for n, v in frozen.items()}
