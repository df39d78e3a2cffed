"""Several methods at once, with one head: `method.name="vpt.VPT+lora.LoRA"`.

    create_model(backbone, "vpt.VPT+lora.LoRA", num_classes=5, num_tokens=8, rank=4)

Every method does its part: one prompts the layers, another changes what linear layers compute, a
third only says which weights of the backbone train. Two that replace the same hook, such as two
kinds of prompts, do not combine: which of them should run is not defined.

`vpjax.core.registry.lookup` makes the class. Its options are those of all methods; one that several
have, such as `dropout`, carries the class's name in lower case: `vpt_dropout`, `lora_dropout`. So
do the parameters: "method/vpt/prompts/0", "method/lora/...", and "method/head/kernel".
"""

import copy
import functools
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.methods.base import KEEP, Criterion, Method
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

# What one method only may do in a way of its own, and the hooks that belong together for it.
HOOKS = {
    "making tokens of images": ("start", "input_size"),
    "running a layer": ("step",),
    "pooling or classifying": ("predict", "classify", "num_outputs"),
    "computing the loss": ("loss_terms", "loss"),
    "starting from training images": ("choose_images", "start_values"),
}
COMMON = registry.options(Method)  # of the one head


class _Combined(Method):
    """Base of the classes that `combine` makes."""

    methods: tuple[type[Method], ...] = ()
    names: dict[str, dict[str, str]] = {}  # part -> option of the combination -> option of the part

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        match_reference_code: bool = False,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        own = {k: v for k, v in options.items() if k in COMMON}
        super().__init__(backbone, num_classes, rngs=rngs, **own)
        trainable, stats, limits = [], [], {}
        for part, cls in zip(self.names, self.methods, strict=True):
            given = {to: options[of] for of, to in self.names[part].items() if of in options}
            if "match_reference_code" in registry.options(cls):
                given["match_reference_code"] = match_reference_code
            made = cls(backbone, num_classes, **given, rngs=rngs)
            del made.head
            setattr(self, part, made)
            trainable.append(_below(part, made.trainable))
            stats.append(_below(part, made.trainable_stats))
            limits |= {_below(part, rule): bounds for rule, bounds in made.limits.items()}
        self.trainable = "|".join((*dict.fromkeys(trainable), r"method/head/.*"))
        self.trainable_stats = "|".join((*dict.fromkeys(stats), r"method/head/.*"))
        self.limits = limits
        if options.get("backbone_dropout") is None:
            self.backbone_dropout = any(cls.backbone_dropout for cls in self.methods)

    @classmethod
    def input_size(cls, image_size: tuple[int, int], options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size that the method which changes it asks for."""
        for part, method in zip(cls.names, cls.methods, strict=True):
            own = {to: options[of] for of, to in cls.names[part].items() if of in options}
            image_size = method.input_size(image_size, own)
        return image_size

    @property
    def parts(self) -> dict[str, Method]:
        """The methods by their names."""
        return {part: getattr(self, part) for part in self.names}

    def run_hook(self, hook: str, *arguments: Any) -> Any:
        """Call a hook of the method that has its own, with the common head, or else the default."""
        hooks = next(row for row in HOOKS.values() if hook in row)
        for part in self.parts.values():
            if any(_has_own(type(part), name) for name in hooks):
                own = copy.copy(part)
                vars(own)["head"] = self.head  # flax forbids to set attributes inside a trace
                return getattr(own, hook)(*arguments)
        return getattr(Method, hook)(self, *arguments)

    def reinitialised_params(self, backbone: Backbone, key: Array) -> dict[str, Array]:
        """Return what all methods draw anew."""
        new = {}
        for part in self.parts.values():
            new |= part.reinitialised_params(backbone, key)
        return new

    def choose_images(
        self, labels: Int[np.ndarray, " n *C"], rng: np.random.Generator
    ) -> Int[np.ndarray, " S"] | None:
        """Return the images that one of the methods starts from."""
        return self.run_hook("choose_images", labels, rng)

    def start_values(
        self, backbone: Backbone, images: Float[Array, "S H W C"], labels: Array, key: Array
    ) -> dict[str, Array]:
        """Return the values that one of the methods starts from."""
        for name, part in self.parts.items():
            if _has_own(type(part), "start_values"):
                made = part.start_values(backbone, images, labels, key)
                return {f"{name}/{n}": v for n, v in made.items()}
        return {}

    def num_outputs(self, backbone: Backbone) -> int | None:
        """Return how many tokens the method that pools, or else the backbone, needs."""
        return self.run_hook("num_outputs", backbone)

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Any:
        """Return the state that enters the first layer."""
        return self.run_hook("start", backbone, images, ctx)

    def step(self, layer: nnx.Module, state: Tokens, ctx: Context) -> Any:
        """Apply one layer as the method does that prompts it."""
        return self.run_hook("step", layer, state, ctx)

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Return what one of the methods makes of a place inside a layer.

        Raises:
            UserError: if two of them change it.
        """
        out, changed = y, ""
        for name, part in self.parts.items():
            new = part.tap(site, y, x, ctx)
            if new is y:
                continue
            if changed:
                raise UserError(
                    f"{changed} and {name} both change {site!r} of layer {ctx.layer}, and the "
                    "result would depend on their order. Give them different sites, or leave one "
                    "of them out."
                )
            out, changed = new, name
        return out

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights that the methods change together; see `Method.fold`."""
        found = {}
        for name, part in self.parts.items():
            new = part.fold(backbone)
            if both := sorted(found.keys() & new.keys()):
                raise UserError(
                    f"{name} and the methods before it all change {both[0]}, and weights cannot "
                    f"say in which order; {KEEP}."
                )
            found |= new
        return found

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs of the method that pools in a way of its own."""
        return self.run_hook("predict", backbone, state, ctx)

    def classify(self, features: Float[Array, "B D"], ctx: Context) -> dict[str, Array]:
        """Return the outputs for pooled features."""
        return self.run_hook("classify", features, ctx)

    def loss_terms(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> dict[str, Array]:
        """Return the loss of the method that has one of its own, or else the criterion."""
        return self.run_hook("loss_terms", out, labels, criterion, ctx)

    def loss(
        self, out: dict[str, Array], labels: Int[Array, " B *C"], criterion: Criterion, ctx: Context
    ) -> Float[Array, " B"]:
        """Return the loss of each image; see `loss_terms`."""
        return self.run_hook("loss", out, labels, criterion, ctx)


@functools.cache
def combine(names: tuple[str, ...]) -> type[Method]:
    """Return the class of several methods together.

    Args:
        names: of the methods, such as ("vpt.VPT", "lora.LoRA").

    Raises:
        UserError: if there is no such method, or two of them do not go together.
    """
    classes = tuple(registry.lookup("methods", name) for name in names)
    parts = [cls.__name__.lower() for cls in classes]
    _check(classes, parts)
    own = {p: _own_options(cls) for p, cls in zip(parts, classes, strict=True)}
    shared = {o for p in parts for o in own[p] if sum(o in other for other in own.values()) > 1}
    renamed = {p: {f"{p}_{o}" if o in shared else o: o for o in own[p]} for p in parts}
    members = {
        "methods": classes,
        "completes_backbone": any(cls.completes_backbone for cls in classes),
        "names": renamed,
        "restored": {
            new: cls.restored[old]
            for p, cls in zip(parts, classes, strict=True)
            for new, old in renamed[p].items()
            if old in cls.restored
        },
        "no_decay": "|".join(
            _below(p, c.no_decay) for p, c in zip(parts, classes, strict=True) if c.no_decay
        ),
        "sharded": {
            _below(p, k): v
            for p, c in zip(parts, classes, strict=True)
            for k, v in c.sharded.items()
        },
        "__module__": "vpjax.methods",
        "__doc__": f"{' and '.join(parts)} at once, with one head; see `vpjax.methods.combine`.",
    }
    made = type(_Combined)("+".join(names), (_Combined,), members)
    made.__init__ = _constructor(classes, parts, renamed)
    return made


def methods_of(cls: type[Method]) -> tuple[type[Method], ...]:
    """Return the classes that a class combines; itself, if it is no combination."""
    return cls.methods if issubclass(cls, _Combined) else (cls,)


def _constructor(
    classes: Sequence[type], parts: Sequence[str], renamed: Mapping[str, Mapping[str, str]]
) -> Any:
    """Return a constructor whose signature shows the options of all methods."""

    def __init__(self, backbone: Backbone, num_classes: int, *, rngs: nnx.Rngs, **options: Any):
        _Combined.__init__(self, backbone, num_classes, rngs=rngs, **options)

    leading = list(inspect.signature(_Combined.__init__).parameters.values())[:3]
    found = dict(COMMON)
    hints = {"backbone": Backbone, "num_classes": int}
    for part, cls in zip(parts, classes, strict=True):
        known = registry.options(cls)
        for base in reversed(cls.__mro__):
            own = typing.get_type_hints(base.__init__)
            hints |= {new: own[old] for new, old in renamed[part].items() if old in own}
            hints |= {k: v for k, v in own.items() if k in COMMON}
        found |= {new: known[old].replace(name=new) for new, old in renamed[part].items()}
        if "match_reference_code" in known:
            found["match_reference_code"] = known["match_reference_code"]
    keyword = [p.replace(kind=p.KEYWORD_ONLY) for p in found.values()]
    rngs = inspect.Parameter("rngs", inspect.Parameter.KEYWORD_ONLY)
    __init__.__signature__ = inspect.Signature([*leading, *keyword, rngs])
    __init__.__annotations__ = hints
    return __init__


def _own_options(cls: type) -> list[str]:
    """Return the options of a method that are not the head's or the run's."""
    return [o for o in registry.options(cls) if o not in (*COMMON, "match_reference_code", "mesh")]


def _check(classes: Sequence[type[Method]], parts: Sequence[str]) -> None:
    """Raise a UserError if methods do not go together."""
    if len(set(parts)) < len(parts) or len(parts) < 2:
        raise UserError(
            f"method.name={'+'.join(parts)!r} combines {len(set(parts))} method(s): name two or "
            "more different ones, such as 'vpt.VPT+lora.LoRA'"
        )
    for part, cls in zip(parts, classes, strict=True):
        if cls.reads_class_names or any(o not in registry.options(cls) for o in COMMON):
            raise UserError(
                f"{part} does not combine with other methods: it has no classification head that "
                "they could share"
            )
    for what, hooks in HOOKS.items():
        owners = [
            part
            for part, cls in zip(parts, classes, strict=True)
            if any(_has_own(cls, hook) for hook in hooks)
        ]
        if len(owners) > 1:
            raise UserError(
                f"{' and '.join(owners)} do not combine: each has its own way of {what}. Keep one "
                "of them."
            )


def _has_own(cls: type[Method], hook: str) -> bool:
    function = lambda of: getattr(getattr(of, hook), "__func__", getattr(of, hook))  # noqa: E731
    return function(cls) is not function(Method)


def _below(part: str, pattern: str) -> str:
    """Return a pattern of a method's parameters for one that is part of a combination."""
    return re.sub(r"(?<![\w/])method/", f"method/{part}/", pattern)
