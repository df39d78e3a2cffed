"""From a config to a model with numbers.

Each number comes from exactly one place: the weights file for the backbone, a seeded draw for the
rest. A backbone whose weights are loaded is built of shapes only; nothing is drawn to be
overwritten.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpjax.backbones.vit import pair
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition
from vpjax.nn.attention import resolve
from vpjax.runs.config import OUTSIDE
from vpjax.weights.load import Loaded, load


def build(
    config: ConfigDict,
    num_classes: int,
    attention: str = "xla",
    mesh: Mesh | None = None,
    text: np.ndarray | None = None,
) -> tuple[ModelParts, Loaded | None]:
    """Returns the model's parts, and the record of what was loaded; what was loaded is numpy.

    `mesh` is for methods that split their work over it, `text` (C D) for those that read class
    names.
    Raises: UserError if names, options or weights do not fit.
    """
    key = jax.random.key(config.seed)
    body = lambda: make_backbone(config, attention, jax.random.fold_in(key, 0))  # noqa: E731
    where = config.backbone.weights
    backbone = nnx.eval_shape(body) if where else body()
    rngs = nnx.Rngs(jax.random.fold_in(key, 1))
    model = make_model(config, backbone, num_classes, mesh, rngs)
    parts = partition(model, config.train.trainable, split_over(config, mesh))
    loaded, values = None, {}
    if where:
        expected = params.flatten(nnx.state(backbone))
        head, resample = config.backbone.head, config.backbone.resample
        loaded = load(where, expected, backbone.grid, head, resample)
        values = {f"backbone/{n}": v for n, v in loaded.values.items()}
        values |= head_values(loaded, num_classes)
        loaded = dataclasses.replace(loaded, values={}, head={})
    fresh = model.method.reinitialised_params(backbone, jax.random.fold_in(key, 3))
    values |= {f"backbone/{n}": v for n, v in fresh.items()}
    if text is not None:
        values["method/text"] = text_rows(text, parts.frozen["method/text"].shape)

    def fill(part):
        # What was loaded stays on the host: a device may be given a part of it only.
        return {n: np.asarray(values[n], v.dtype) if n in values else v for n, v in part.items()}

    frozen = stored(fill(parts.frozen), jnp.dtype(config.dtype))
    return ModelParts(parts.graph, fill(parts.trainable), fill(parts.stats), frozen), loaded


def make_model(
    config: ConfigDict, backbone: nnx.Module, num_classes: int, mesh: Mesh | None, rngs: nnx.Rngs
) -> Model:
    """Joins a backbone, which may be of shapes only, and the config's method."""
    decided = run_wide(
        "methods", config.method.name, match_reference_code=config.match_reference_code, mesh=mesh
    )
    method = registry.construct(
        "methods", config.method, backbone, num_classes, **decided, rngs=rngs
    )
    return Model(backbone, method)


def graph(config: ConfigDict, num_classes: int, attention: str, mesh: Mesh | None = None) -> tuple:
    """Returns the graph that `build` has with another attention; nothing is drawn or loaded."""

    def make():
        backbone = make_backbone(config, attention, jax.random.key(0))
        return make_model(config, backbone, num_classes, mesh, nnx.Rngs(0))

    over = split_over(config, mesh)
    return partition(nnx.eval_shape(make), config.train.trainable, over).graph


def split_over(config: ConfigDict, mesh: Mesh | None) -> Mesh | None:
    """Returns the mesh that frozen layers are split over, see `vpjax.nn.fsdp`; None: they are not."""
    return mesh if config.mesh.get("fsdp", False) else None


def make_backbone(config: ConfigDict, attention: str, key: jax.Array) -> nnx.Module:
    """Constructs the backbone; where its weights come from is not its business."""
    options = backbone_options(config)
    method = registry.lookup("methods", config.method.name)
    options["image_size"] = method.input_size(pair(options["image_size"]), config.method.to_dict())
    decided = run_wide(
        "backbones",
        options["name"],
        attention=attention,
        match_reference_code=config.match_reference_code,
    )
    return registry.construct("backbones", options, **decided, rngs=nnx.Rngs(key))


def backbone_options(config: ConfigDict) -> dict[str, Any]:
    """Returns the options of the backbone; a class may `complete` what its weights decide."""
    options = {k: v for k, v in config.backbone.items() if k not in OUTSIDE}
    complete = getattr(registry.lookup("backbones", options["name"]), "complete", None)
    return complete(options, config.backbone.weights) if complete else options


def run_wide(package: str, name: str, **decided: Any) -> dict[str, Any]:
    """Returns those of the options decided for the whole run that the named class has."""
    known = registry.options(registry.lookup(package, name))
    return {k: v for k, v in decided.items() if k in known}


def resolve_attention(config: ConfigDict) -> str:
    """Returns the attention implementation that will run; see `vpjax.nn.attention`."""
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


def text_rows(text: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the text features of the classes, with rows of zeros for those that only fill up."""
    if text.shape[1] != shape[1]:
        raise UserError(
            f"text features are {text.shape[1]} wide and image features {shape[1]}; both must come "
            "from the same CLIP. Choose backbone.name='clip.CLIP'."
        )
    return np.pad(text, ((0, shape[0] - len(text)), (0, 0)))


def stored(frozen: dict[str, jax.Array], dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Keeps frozen matrices in the dtype they are used in; they would be cast at every use."""
    cast = lambda v: v.astype(dtype, copy=False)  # noqa: E731
    return {n: cast(v) if n.endswith("kernel") else v for n, v in frozen.items()}
