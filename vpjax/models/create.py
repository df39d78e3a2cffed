"""Models for a notebook: a pretrained backbone by name, and a method on top of it.

backbone = load_backbone("digits_vit")
model = create_model(backbone, "vpt.VPT", num_tokens=8, num_classes=5)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vpjax.backbones.base import Backbone
from vpjax.core import params, registry
from vpjax.core.errors import UserError, unknown
from vpjax.data.fields import Preset
from vpjax.data.transforms import preset as find_preset
from vpjax.methods.base import Method
from vpjax.methods.class_texts import ClassTexts
from vpjax.models import factory
from vpjax.models.factory import BackboneSpec, MethodSpec
from vpjax.models.model import Model
from vpjax.models.text.class_texts import class_texts, sentences_of
from vpjax.models.text.features import class_text_features
from vpjax.weights.catalog import CATALOG
from vpjax.weights.load import Loaded
from vpjax.weights.recognise import describe, looks_like_weights


@dataclasses.dataclass(eq=False)
class Origin:
    """How a backbone was made, so that a run can make it again.

    Attributes:
        spec: its class, options and weights.
        loaded: what was read from the weights file; None if the weights are random.
        seed: of random weights.
    """

    spec: BackboneSpec
    loaded: Loaded | None
    seed: int


def load_backbone(
    name: str | type,
    weights: str | None = None,
    *,
    preset: str | Preset | None = None,
    dtype: str = "float32",
    attention: str = "auto",
    resample: str = factory.AUTO,
    seed: int = 0,
    **options: Any,
) -> Backbone:
    """Load a pretrained backbone, an `nnx.Module` that maps images (B H W C) to features (B D).

    Args:
        name: weights that say which class they are for: a name of `list_weights()`, a name of the
            Hugging Face hub ("facebook/dinov2-small"), a folder, a file or an address. Else a
            class: a name of `list_backbones()` ("vit.ViT"), of one's own ("mylab.nets.Mine"), or
            the class itself.
        weights: a path, an address, or a name of the catalogue or the hub; "": random weights from
            `seed`. None: the weights that `name` stands for.
        preset: the preprocessing, a name in `vpjax.data.PRESETS`, or its fields, as in
            "bicubic,crop=0.9,mean=0.5,std=0.5"; None: that of the weights.
        dtype: of computation, "float32" or "bfloat16".
        attention: implementation, see `vpjax.nn.attention`.
        resample: how weights are resized to another image or patch size, see
            `vpjax.weights.resample`; "auto": as the library of the weights does it.
        seed: of random weights.
        options: of the backbone's class, such as `image_size=384`.

    Returns:
        The backbone. It takes uint8 images, which it preprocesses, or floats as prepared ones.

    Raises:
        UserError: if there is no such backbone, or weights or options do not fit.
    """
    if isinstance(name, type):
        name = registry.name_of("backbones", name)
    if weights is None:
        name, weights = class_of_weights(name), name
    spec = BackboneSpec(name, options, weights, resample=resample)
    plain = MethodSpec("finetune.Linear")
    resolved = factory.resolve_attention(spec, plain, attention, dtype)
    key = jax.random.fold_in(jax.random.key(seed), 0)
    build = lambda: factory.make_backbone(spec, plain, key, resolved)  # noqa: E731
    if weights:
        backbone = nnx.eval_shape(build)
        loaded = factory.load_weights(backbone, spec)
        values = {n: jnp.asarray(v) for n, v in loaded.values.items()}
        loaded = dataclasses.replace(loaded, values={}, head={})
    else:
        backbone, loaded = build(), None
        values = params.flatten(nnx.state(backbone))
    values = factory.cast_kernels(values, jnp.dtype(dtype))
    graph, state = nnx.split(backbone)
    backbone = nnx.merge(graph, params.fill(state, values))
    chosen = preset or factory.preset_of(name, weights)
    backbone.preset = find_preset(chosen).name if chosen else None
    backbone.dtype = dtype
    backbone.origin = Origin(spec, loaded, seed)
    return backbone


def class_of_weights(weights: str) -> str:
    """Return the name of the class that weights are for.

    Args:
        weights: a name of the catalogue or the hub, a path or an address.

    Raises:
        UserError: if they do not say it, or are a class's name instead.
    """
    if not looks_like_weights(weights):
        if "." not in weights:
            raise unknown("backbone", weights, [*CATALOG, *registry.available("backbones")])
        raise UserError(
            f"backbone {weights!r} needs weights: a path, an address or a name of list_weights(); "
            'weights="" means random ones.'
        )
    found = describe(weights)
    if found is None:
        kind = CATALOG[weights].description if weights in CATALOG else "of a kind not known here"
        raise UserError(
            f"weights {weights!r} belong to no backbone that can be told from them ({kind}). Name "
            'the class too: load_backbone("vit.ViT", weights=...).'
        )
    return found.name


def create_model(
    backbone: Backbone,
    method: str | type[Method] | Sequence[str],
    num_classes: int,
    *,
    trainable: str = "",
    match_reference_code: bool = False,
    class_names: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> Model:
    """Create a model from a frozen backbone and a method on top of it.

    `print(model)` shows what trains. The backbone itself is not changed.

    Args:
        backbone: from `load_backbone`, or one's own.
        method: a name of `list_methods()` ("vpt.VPT"), of one's own ("mylab.prompts.Mine"), or the
            class itself. Several at once are joined by "+", or given as a list of names, see
            `vpjax.methods.combine`.
        num_classes: C, logits of an image.
        trainable: regular expression of the parameters that train; "": the method's own.
        match_reference_code: whether to repeat published code where it differs from its paper.
        class_names: names of the classes, for methods that start from their text features.
        seed: of the method's random initial values.
        options: of the method's class, such as `num_tokens=8`.

    Returns:
        The model: images (uint8 B H W C) -> {"logits": B C, "features": B D, ...}.

    Raises:
        UserError: if there is no such method or option, or they do not suit the backbone.
    """
    if isinstance(method, type):
        method = registry.name_of("methods", method)
    name = method if isinstance(method, str) else "+".join(method)
    cls = registry.lookup("methods", name)
    spec = MethodSpec(name, options)
    body = _of_size(backbone, cls, spec)
    key = jax.random.key(seed)
    rngs = nnx.Rngs(jax.random.fold_in(key, 1))
    texts = _texts(backbone, class_names, num_classes, spec) if cls.learns_texts else None
    model = factory.make_model(body, spec, num_classes, rngs, match_reference_code, texts=texts)
    values = model.method.reinitialised_params(body, jax.random.fold_in(key, 3))
    values = {f"backbone/{n}": v for n, v in values.items()}
    if cls.reads_class_names:
        text = class_text_features(*_described(backbone, class_names, num_classes, name))
        frozen = params.flatten(nnx.state(model))
        found = factory.text_values(text.values, text.scale, frozen, name)
        values |= {n: jnp.asarray(value) for n, value in found.items()}
    if values:
        graph, state = nnx.split(model)
        model = nnx.merge(graph, params.fill(state, params.flatten(state) | values))
    model.trainable_pattern = trainable
    model.match_reference_code = match_reference_code
    model.method_spec = _Static(spec)
    return model


class _Static:
    """Holds a value that is not an array, as an attribute of a module; compared by identity."""

    def __init__(self, value: Any):
        self.value = value


def _of_size(backbone: Backbone, method: type[Method], spec: MethodSpec) -> Backbone:
    """Return a copy of the backbone that shares its arrays, if it has the size the method needs."""
    size = method.input_size(tuple(backbone.image_size), dict(spec.options))
    if tuple(size) == tuple(backbone.image_size):
        return nnx.merge(*nnx.split(backbone))
    raise UserError(
        f"{spec.name} changes the size of the backbone's input, from {backbone.image_size} to "
        f"{size} pixels; build such a model from a config: vpjax.fit(config)."
    )


def _texts(
    backbone: Backbone, names: Sequence[str], num_classes: int, spec: MethodSpec
) -> ClassTexts:
    sentences = sentences_of(spec.name, spec.options)
    return class_texts(*_described(backbone, names, num_classes, spec.name), sentences).texts


def _described(
    backbone: Backbone, names: Sequence[str], num_classes: int, method: str
) -> tuple[str, tuple[str, ...], list[dict[str, str]]]:
    """Return the weights of a backbone, and names and metadata of classes."""
    if len(names) != num_classes:
        raise UserError(
            f"{method} starts from the names of the classes: class_names has {len(names)} names, "
            f"and num_classes is {num_classes}; give one name a class"
        )
    origin = getattr(backbone, "origin", None)
    where = origin.spec.weights if origin else ""
    factory.check_towers(method, registry.name_of("backbones", type(backbone)))
    return where, tuple(names), [{"name": str(name).replace("_", " ")} for name in names]


def list_backbones() -> list[str]:
    """Return the names of all backbone classes, such as "vit.ViT"."""
    return registry.available("backbones")


def list_methods() -> list[str]:
    """Return the names of all methods, such as "vpt.VPT"."""
    return registry.available("methods")


def options_of(name: str) -> Mapping[str, Any]:
    """Return the options of a method or backbone by name, with their defaults.

    Args:
        name: of `list_methods()` or `list_backbones()`, or of one's own class.

    Raises:
        UserError: if there is no such class.
    """
    package = "methods" if "+" in name or name in list_methods() else "backbones"
    found = registry.options(registry.lookup(package, name))
    return {key: parameter.default for key, parameter in found.items()}
