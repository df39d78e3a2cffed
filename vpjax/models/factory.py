"""From names and options to a model with weights.

Each array comes from exactly one place: the weights file for the backbone, a seeded random draw
for the rest. A backbone whose weights are loaded is built of shapes only, so that no random values
are computed to be overwritten.
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
from vpjax.backbones.clip import CLIP
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.core.size import pair
from vpjax.methods.class_texts import ClassTexts
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, partition
from vpjax.models.text.class_texts import sentences_of, shapes_of_texts
from vpjax.nn import attention as attentions
from vpjax.weights.description import Description
from vpjax.weights.load import Loaded, load
from vpjax.weights.recognise import describe

AUTO = "auto"
IMAGE_SIZE = 224  # pixels, where neither the weights nor the class say another


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """Which backbone, with which options and weights.

    Attributes:
        name: a class for `vpjax.core.registry.lookup`, such as "vit.ViT".
        options: keyword arguments of its constructor; what is absent has its default.
        weights: a path, an address, a name of the catalogue or of the hub; "": random ones.
        head: "new", or "load" to take the file's classification head too.
        resample: how weights are resized to another grid or patch size, see
            `vpjax.weights.resample`; "auto": as the library of the weights does it.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    head: str = "new"
    resample: str = AUTO

    def completed(self) -> dict[str, Any]:
        """Return the options with those that the weights decide, and `image_size`, filled in.

        Raises:
            UserError: if the weights belong to another class, or leave something open that must be
                known.
        """
        cls = registry.lookup("backbones", self.name)
        options = dict(self.options)
        if options.get("variant") is not None:  # 18 on a command line is a number
            options["variant"] = str(options["variant"])
        if self.weights and (found := describe(self.weights)):
            options = fill_options(self.name, options, found, self.weights)
        options = cls.complete(options, self.weights)
        if options.get("image_size") is None:
            options["image_size"] = registry.options(cls)["image_size"].default or IMAGE_SIZE
        return options


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """Which method, with which options.

    Attributes:
        name: a class for `vpjax.core.registry.lookup`, such as "vpt.VPT".
        options: keyword arguments of its constructor; what is absent has its default.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def fill_options(
    name: str, options: dict[str, Any], found: Description, weights: str
) -> dict[str, Any]:
    """Fill in the options of a backbone that are None or absent with what its weights say.

    Args:
        name: of the class, as the user gave it.
        options: as the user gave them; those that are not None win.
        found: what the weights say.
        weights: path, address or name, for messages.

    Raises:
        UserError: if the weights are another class's, contradict the variant, or leave something
            open that neither an option nor a variant says.
    """
    cls, other = registry.lookup("backbones", name), registry.lookup("backbones", found.name)
    if not (issubclass(cls, other) or issubclass(other, cls)):
        raise UserError(
            f"weights {weights} are {found.kind}, which backbone.name={found.name!r} is for, and "
            f"backbone.name is {name!r}. Set it to {found.name!r}, or choose other weights."
        )
    known = registry.options(cls)
    given = {k: v for k, v in options.items() if v is not None}
    implied = cls.options_of_variant(given["variant"]) if "variant" in given else {}
    for key in implied.keys() & found.options.keys() - given.keys() - {"patch_size"}:
        if implied[key] != found.options[key]:
            raise UserError(
                f"backbone.variant={given['variant']!r} means {key} {implied[key]}, and weights "
                f"{weights}, {found.kind}, have {key} {found.options[key]}. Leave the variant out "
                "(backbone.variant=None), or choose other weights."
            )
    said = {k: v for k, v in found.options.items() if k in known and k not in implied}
    out = options | said | given
    asked = [k for k in found.open if k in known and out.get(k) is None and k not in implied]
    asked = [k for k in asked if k in cls.never_assumed or "variant" not in given]
    if asked:
        words = " ".join(f"backbone.{k}=..." for k in asked)
        raise UserError(
            f"weights {weights} are {found.kind}, and nothing beside the file says "
            f"{', '.join(asked)}, which arrays do not show. Put the model's configuration "
            f"(config.json, open_clip_config.json) beside it, or say it: {words}."
        )
    return out


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
    text_scale: float | None = None,
    texts: ClassTexts | None = None,
) -> tuple[ModelParts, Loaded | None]:
    """Build a model and load its weights.

    Args:
        backbone: the pretrained part.
        method: what is trained on top of it.
        num_classes: C, logits of an image.
        seed: of all values that are not loaded.
        dtype: of computation, "float32" or "bfloat16"; frozen matrices are stored in it.
        attention: an implementation of `vpjax.nn.attention`.
        match_reference_code: whether to repeat published code where it differs from its paper.
        trainable: regular expression of the parameters that train; "": the method's own.
        mesh: for methods that split their work over devices.
        fsdp: whether frozen layers are split over `mesh`, see `vpjax.nn.fsdp`.
        text: C D text features of the classes, for methods that read class names.
        text_scale: exp(logit_scale) of their CLIP; None: not known.
        texts: text tower and texts of the classes, for methods that learn texts.

    Returns:
        The parts of the model, and what is known of the weights file (None without one). Loaded
        arrays are numpy arrays: a device may be given a part of them only.

    Raises:
        UserError: if names, options or weights do not fit.
    """
    key = jax.random.key(seed)
    build_body = lambda: make_backbone(  # noqa: E731
        backbone, method, jax.random.fold_in(key, 0), attention, match_reference_code
    )
    body = nnx.eval_shape(build_body) if backbone.weights else build_body()
    rngs = nnx.Rngs(jax.random.fold_in(key, 1))
    model = make_model(body, method, num_classes, rngs, match_reference_code, mesh, texts)
    parts = partition(model, trainable, mesh if fsdp else None)
    loaded, values = None, {}
    if backbone.weights:
        loaded = load_weights(body, backbone)
        values = {f"backbone/{n}": v for n, v in loaded.values.items()}
        values |= head_values(loaded, body.dim, num_classes)
        loaded = dataclasses.replace(loaded, values={}, head={})
    new = model.method.reinitialised_params(body, jax.random.fold_in(key, 3))
    values |= {f"backbone/{n}": v for n, v in new.items()}
    if text is not None:
        values |= text_values(text, text_scale, parts.frozen, method.name)

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
    """Construct a backbone of the size that the method needs, with random weights.

    Args:
        backbone: its class and options.
        method: decides the size of its input.
        key: PRNG key of the weights.
        attention: an implementation of `vpjax.nn.attention`, for classes that have the option.
        match_reference_code: likewise.

    Raises:
        UserError: if there is no such class or option.
    """
    options = {"name": backbone.name} | backbone.completed()
    given = pair(options["image_size"])
    size = registry.lookup("methods", method.name).input_size(given, dict(method.options))
    shared = shared_options(
        "backbones", backbone.name, attention=attention, match_reference_code=match_reference_code
    )
    options["image_size"] = size
    made = registry.construct("backbones", options, **shared, rngs=nnx.Rngs(key))
    if tuple(size) == given:  # a method that enlarges images decides for itself
        made.check_image_size()
    return made


def make_model(
    backbone: Backbone,
    method: MethodSpec,
    num_classes: int,
    rngs: nnx.Rngs,
    match_reference_code: bool = False,
    mesh: Mesh | None = None,
    texts: ClassTexts | None = None,
) -> Model:
    """Construct a method on a backbone, and join both to a model.

    Args:
        backbone: it may consist of shapes only.
        method: its class and options.
        num_classes: C, logits of an image.
        rngs: draws the method's initial values.
        match_reference_code: for methods that have the option.
        mesh: likewise.
        texts: likewise.

    Raises:
        UserError: if there is no such class or option, or it does not suit the backbone.
    """
    given = {"match_reference_code": match_reference_code, "mesh": mesh, "texts": texts}
    shared = shared_options("methods", method.name, **given)
    options = {"name": method.name} | dict(method.options)
    made = registry.construct("methods", options, backbone, num_classes, **shared, rngs=rngs)
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
    """Return the model that `build` makes as shapes only: nothing is computed or loaded.

    See `build` for the arguments.
    """

    def make():
        key = jax.random.key(0)
        body = make_backbone(backbone, method, key, attention, match_reference_code)
        texts = None
        if registry.lookup("methods", method.name).learns_texts and isinstance(body, CLIP):
            sentences = sentences_of(method.name, method.options)
            variant = backbone.options.get("variant")
            texts = shapes_of_texts(backbone.weights, variant, num_classes, sentences)
        return make_model(body, method, num_classes, nnx.Rngs(0), match_reference_code, mesh, texts)

    return nnx.eval_shape(make)


def check_towers(method: str, backbone: str) -> None:
    """Check that a backbone has a text tower beside it, where a method learns prompts of texts.

    Args:
        method: name of its class.
        backbone: likewise.

    Raises:
        UserError: if not.
    """
    learns = registry.lookup("methods", method).learns_texts
    if learns and not issubclass(registry.lookup("backbones", backbone), CLIP):
        raise UserError(
            f"{method} learns prompts of CLIP's text tower, which {backbone} has not. Set "
            "backbone.name='clip.CLIP' and backbone.weights to a whole CLIP."
        )


def resolve_attention(
    backbone: BackboneSpec, method: MethodSpec, attention: str, dtype: str
) -> str:
    """Return the attention implementation that will run; see `vpjax.nn.attention.resolve`.

    Args:
        backbone: whose head width decides what can run.
        method: decides the size of the backbone's input.
        attention: an implementation, "auto" or "measured".
        dtype: of computation.

    Raises:
        UserError: if it cannot run here, with the reason.
    """
    body = nnx.eval_shape(lambda: make_backbone(backbone, method, jax.random.key(0)))
    return attentions.resolve(attention, jnp.dtype(dtype), body.head_dim)


def preset_of(name: str, weights: str) -> str | None:
    """Return the preprocessing that a backbone's weights were trained with; None: not known.

    Args:
        name: of the backbone's class.
        weights: path, address or name.
    """
    found = describe(weights) if weights else None
    if found is None:
        return registry.lookup("backbones", name).preset
    return found.preset.name if found.preset else None


def load_weights(body: Backbone, spec: BackboneSpec) -> Loaded:
    """Read the weights of a backbone.

    Args:
        body: the backbone; it may consist of shapes only.
        spec: names the file, and how it is resampled.

    Raises:
        UserError: if the file cannot be read or does not fit.
    """
    expected = params.flatten(nnx.state(body))
    found = describe(spec.weights)
    resample = spec.resample
    if resample == AUTO:
        resample = found.resample if found else "align_corners"
    kind = found.kind if found else ""
    return load(spec.weights, expected, body.grid, spec.head, resample, kind, source_grid(found))


def source_grid(found: Description | None) -> tuple[int, int] | None:
    """Return the grid (h, w) that weights were made for, where they say it; None: not known."""
    options = found.options if found else {}
    own = found.positions_size if found else None
    size, patch = own or options.get("image_size"), options.get("patch_size")
    if size is None or patch is None:
        return None
    return tuple(i // p for i, p in zip(pair(size), pair(patch), strict=True))


def shared_options(package: str, name: str, **values: Any) -> dict[str, Any]:
    """Return those of `values`, which hold for a whole run, that a class has options for.

    Args:
        package: "methods" or "backbones".
        name: of the class.
        values: such as `attention`, `match_reference_code` and `mesh`.
    """
    known = registry.options(registry.lookup(package, name))
    return {k: v for k, v in values.items() if k in known}


def head_values(loaded: Loaded, dim: int, num_classes: int) -> dict[str, Any]:
    """Return the classification head of a weights file by the names of a model's parameters.

    Raises:
        UserError: if it reads features of another width than `dim`, or has not `num_classes`
            classes.
    """
    if loaded.head and loaded.head["kernel"].shape[0] != dim:
        width = loaded.head["kernel"].shape[0]
        hint = " Its features are two in one: backbone.pool='token_mean'." * (width == 2 * dim)
        raise UserError(
            f"weights {loaded.path}: the head reads features {width} wide, and the backbone's are "
            f"{dim} wide.{hint}"
        )
    if loaded.head and loaded.head["bias"].shape != (num_classes,):
        raise UserError(
            f"weights {loaded.path}: the head has {len(loaded.head['bias'])} classes, the data "
            f"{num_classes}. Use backbone.head='new'."
        )
    return {f"method/head/{n}": v for n, v in loaded.head.items()}


def text_values(
    text: np.ndarray, scale: float | None, frozen: Mapping[str, Any], method: str
) -> dict[str, Any]:
    """Return what a method that reads class names gets from CLIP, by the model's names.

    Args:
        text: C D text features of the classes.
        scale: exp(logit_scale) of the weights; None: not known.
        frozen: arrays of the model, which say what the method takes.
        method: its name.

    Raises:
        UserError: if text features are not as wide as image features, or the scale is not known.
    """
    found = {"method/text": text_rows(text, frozen["method/text"].shape)}
    if "method/scale" in frozen:
        if scale is None:
            raise UserError(
                f"{method} multiplies cosines by exp(logit_scale), which backbone.weights lack. "
                "Give the file of a whole CLIP."
            )
        found["method/scale"] = np.float32(scale)
    return found


def text_rows(text: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the text features of the classes (C D), padded with rows of zeros to `shape`.

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
    """Return frozen parameters with matrices cast to the dtype that computation uses.

    Else they would be cast at every use.
    """
    cast = lambda v: v.astype(dtype, copy=False)  # noqa: E731
    return {n: cast(v) if n.endswith("kernel") else v for n, v in frozen.items()}
