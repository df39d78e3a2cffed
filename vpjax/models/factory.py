"""From names and options to a model with numbers.

Each number comes from exactly one place: the weights file for the backbone, a seeded draw for the
rest. A backbone whose weights are loaded is built of shapes only; nothing is drawn to be
overwritten.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vpjax.backbones.base import Backbone
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.data.transforms import pair
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition
from vpjax.nn import attention as attentions
from vpjax.weights import catalog
from vpjax.weights.load import Loaded, load


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """Which backbone, with which options and weights.

    Attributes:
        name: a class for `vpjax.core.registry.lookup`, such as "vit.ViT".
        options: keyword arguments of its constructor; what is absent has its default.
        weights: a path, an address, a name of the catalogue or of the hub; "": drawn from a seed.
        head: "new", or "load" to take the file's classification head too.
        resample: how weights are carried to another grid or other patches, see
            `vpjax.weights.resample`.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    head: str = "new"
    resample: str = "align_corners"

    def completed(self) -> dict[str, Any]:
        """Return the options, with those that the weights decide and the size of the images."""
        cls = registry.lookup("backbones", self.name)
        options = cls.complete(dict(self.options), self.weights)
        default = registry.options(cls)["image_size"].default
        return {"image_size": default} | options


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """Which method, with which options; see `BackboneSpec`."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def build(
    backbone: BackboneSpec,
    method: MethodSpec,
    num_classes: int,
    *,
    seed: int = 0,
    dtype: str = "float32",
    attention: str = "xla",
    match_reference_code: bool = False,
    trainable: str = "",
    mesh: Mesh | None = None,
    fsdp: bool = False,
    text: np.ndarray | None = None,
) -> tuple[ModelParts, Loaded | None]:
    """Builds a model and loads its weights.

    Args:
        backbone: what is frozen.
        method: what is learnt.
        num_classes: logits of an image.
        seed: all that is not loaded is drawn from it.
        dtype: of computation; frozen matrices are kept in it.
        attention: an implementation of `vpjax.nn.attention`.
        match_reference_code: whether to repeat published code where it differs from its paper.
        trainable: regular expression of the parameters that train; "": the method's own.
        mesh: for methods that split their work over devices.
        fsdp: whether frozen layers are split over `mesh`, see `vpjax.nn.fsdp`.
        text: C D text features of the classes, for methods that read class names.

    Returns:
        The parts of the model, and the record of what was loaded (None if nothing was). Loaded
        numbers are numpy arrays: a device may be given a part of them only.

    Raises:
        UserError: if names, options or weights do not fit.
    """
    key = jax.random.key(seed)
    build_body = lambda: make_backbone(  # noqa: E731
        backbone, method, jax.random.fold_in(key, 0), attention, match_reference_code
    )
    body = nnx.eval_shape(build_body) if backbone.weights else build_body()
    rngs = nnx.Rngs(jax.random.fold_in(key, 1))
    model = make_model(body, method, num_classes, rngs, match_reference_code, mesh)
    parts = partition(model, trainable, mesh if fsdp else None)
    loaded, values = None, {}
    if backbone.weights:
        loaded = load_weights(body, backbone)
        values = {f"backbone/{n}": v for n, v in loaded.values.items()}
        values |= head_values(loaded, num_classes)
        loaded = dataclasses.replace(loaded, values={}, head={})
    new = model.method.reinitialised_params(body, jax.random.fold_in(key, 3))
    values |= {f"backbone/{n}": v for n, v in new.items()}
    if text is not None:
        values["method/text"] = text_rows(text, parts.frozen["method/text"].shape)

    def fill(part):
        return {n: np.asarray(values[n], v.dtype) if n in values else v for n, v in part.items()}

    frozen = cast_kernels(fill(parts.frozen), jnp.dtype(dtype))
    return ModelParts(parts.graph, fill(parts.trainable), fill(parts.stats), frozen), loaded


def make_backbone(
    backbone: BackboneSpec,
    method: MethodSpec,
    key: jax.Array,
    attention: str = "xla",
    match_reference_code: bool = False,
) -> Backbone:
    """Constructs a backbone of the size that the method needs, with numbers drawn from `key`.

    Raises:
        UserError: if there is no such class or option.
    """
    options = {"name": backbone.name} | backbone.completed()
    size = registry.lookup("methods", method.name).input_size(
        pair(options["image_size"]), dict(method.options)
    )
    decided = run_wide(
        "backbones", backbone.name, attention=attention, match_reference_code=match_reference_code
    )
    options["image_size"] = size
    return registry.construct("backbones", options, **decided, rngs=nnx.Rngs(key))


def make_model(
    backbone: Backbone,
    method: MethodSpec,
    num_classes: int,
    rngs: nnx.Rngs,
    match_reference_code: bool = False,
    mesh: Mesh | None = None,
) -> Model:
    """Join a backbone, which may consist of shapes only, and a method."""
    decided = run_wide("methods", method.name, match_reference_code=match_reference_code, mesh=mesh)
    options = {"name": method.name} | dict(method.options)
    made = registry.construct("methods", options, backbone, num_classes, **decided, rngs=rngs)
    return Model(backbone, made)


def abstract_model(
    backbone: BackboneSpec,
    method: MethodSpec,
    num_classes: int,
    *,
    attention: str = "xla",
    match_reference_code: bool = False,
    mesh: Mesh | None = None,
) -> Model:
    """Returns the model that `build` makes, of shapes: nothing is drawn or loaded."""

    def make():
        key = jax.random.key(0)
        body = make_backbone(backbone, method, key, attention, match_reference_code)
        return make_model(body, method, num_classes, nnx.Rngs(0), match_reference_code, mesh)

    return nnx.eval_shape(make)


def resolve_attention(
    backbone: BackboneSpec, method: MethodSpec, attention: str, dtype: str
) -> str:
    """Return the attention implementation that will run; see `vpjax.nn.attention.resolve`."""
    body = nnx.eval_shape(lambda: make_backbone(backbone, method, jax.random.key(0)))
    return attentions.resolve(attention, jnp.dtype(dtype), body.head_dim)


def preset_of(name: str, weights: str) -> str | None:
    """Return the preprocessing that a backbone's weights were made with; None: not known."""
    own = registry.lookup("backbones", name).preset
    return own or catalog.preset_of(weights)


def load_weights(body: Backbone, spec: BackboneSpec) -> Loaded:
    """Read the weights of a backbone, which may consist of shapes only."""
    expected = params.flatten(nnx.state(body))
    return load(spec.weights, expected, body.grid, spec.head, spec.resample)


def run_wide(package: str, name: str, **decided: Any) -> dict[str, Any]:
    """Return those options, decided once for a whole run, that the named class has."""
    known = registry.options(registry.lookup(package, name))
    return {k: v for k, v in decided.items() if k in known}


def head_values(loaded: Loaded, num_classes: int) -> dict[str, Any]:
    """Return the file's head by our names.

    Raises:
        UserError: if it has another number of classes than the data.
    """
    if loaded.head and loaded.head["bias"].shape != (num_classes,):
        raise UserError(
            f"weights {loaded.path}: the head has {len(loaded.head['bias'])} classes, the data "
            f"{num_classes}. Use backbone.head='new'."
        )
    return {f"method/head/{n}": v for n, v in loaded.head.items()}


def text_rows(text: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the text features of the classes, with rows of zeros for padding.

    Raises:
        UserError: if they are not as wide as image features.
    """
    if text.shape[1] != shape[1]:
        raise UserError(
            f"text features are {text.shape[1]} wide and image features {shape[1]}; both must come "
            "from the same CLIP. Choose backbone.name='clip.CLIP'."
        )
    return np.pad(text, ((0, shape[0] - len(text)), (0, 0)))


def cast_kernels(frozen: dict[str, jax.Array], dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Return frozen matrices in the dtype they are used in; else they are cast at every use."""
    cast = lambda v: v.astype(dtype, copy=False)  # noqa: E731
    return {n: cast(v) if n.endswith("kernel") else v for n, v in frozen.items()}
