"""How images become a model's input, as fields that can be written in one line of text.

    photo H W C --resize--> --crop--> size size C --> (x / 255 - mean) / std

    bicubic,mean=0.5,std=0.5                    stretched to the size, whatever the aspect
    bicubic,crop=7/8,mean=0.485/0.456/0.406,... the shorter side to size / (7/8), the centre of it
    bicubic,squash=0.9,...                      both sides to size / 0.9, the centre of it
    none,...                                    images of the right size, not resized

Text and fields say the same: `preset_of_text(p.text) == p` for a preset without a name.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped, UInt8

from vpjax.core.errors import UserError
from vpjax.core.size import Size, pair
from vpjax.data import resize
from vpjax.data.augment import DEVICE_OPS

HOST_OPS = ("random_crop",)


# Words of the text form: how images are resized.
WORDS = {
    "pil_bilinear": "bilinear",
    "pil_bicubic": "bicubic",
    "pil_lanczos": "lanczos",
    "legacy_bilinear": "legacy_bilinear",
    "float_bilinear": "float_bilinear",
    None: "none",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """How images become the model's input.

    Attributes:
        name: key in `vpjax.data.PRESETS`; "": `text`.
        mean, std: of red, green and blue, for values from 0 to 1.
        resize: one of `resize.KINDS`; None where `rule` is "none".
        rule: "stretch" resizes to size x size whatever the aspect; "short" resizes the shorter side
            to size * short[0] / short[1], rounded down, and crops size x size from the centre, or
            from anywhere if `augment` has "random_crop"; "squash" resizes both sides to that;
            "none" expects images of the right size.
        short: see `rule`.
        augment: random operations of training, in order: random_crop, pad_crop, rotate, flip.
        offset: where the centre lies between two pixels: "even" is torchvision's rounding (halves
            to even), "down" that of transformers.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str | None = None
    rule: str = "stretch"
    short: tuple[int | float, int | float] = (1, 1)
    augment: tuple[str, ...] = ()
    offset: str = "even"

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", self.text)

    def __str__(self) -> str:
        """Return the name, or the fields of a preset without one."""
        return self.name

    @property
    def text(self) -> str:
        """The fields in one line, as `preset_of_text` reads them."""
        numbers = lambda v: "/".join(map(str, v[:1] if len(set(v)) == 1 else v))  # noqa: E731
        words = [WORDS[self.resize]]
        if self.rule in ("short", "squash"):
            more, less = self.short
            share = f"{less}" if more == 1 else f"{less}/{more}"
            words.append(f"{'crop' if self.rule == 'short' else 'squash'}={share}")
        words += ["offset=down"] * (self.offset == "down") + list(self.augment)
        return ",".join([*words, f"mean={numbers(self.mean)}", f"std={numbers(self.std)}"])

    def on_host(self, image_shape: tuple[int | None, int | None, int], size: Size) -> bool:
        """Whether images are resized or cropped by `host` rather than by `device`.

        Crops are made on the host. Stretching is made there if it shrinks images, so that less data
        is sent to the device.

        Args:
            image_shape: H, W and C of the images, H and W None where sizes differ.
            size: of the model's input.

        Raises:
            UserError: if the preset does not resize and images have another size, or crops squares
                and `size` is none.
        """
        height, width, _ = image_shape
        rows, columns = pair(size)
        if self.rule == "short" and rows != columns:
            raise UserError(
                f"preset {self.name!r} crops squares, and image_size is {rows}x{columns}. Choose "
                "a preset that stretches, such as inception."
            )
        if self.rule == "none":
            if (height, width) != (rows, columns):
                have = f"{height}x{width}" if height and width else "of varying size"
                raise UserError(
                    f"preset {self.name!r} does not resize, but images are {have} and image_size "
                    f"is {rows}x{columns}. Set image_size to the size of the images, or choose "
                    "a preset that resizes, such as inception."
                )
            return False
        if self.rule in ("short", "squash") or height is None or width is None:
            return True
        return height * width > rows * columns

    def random_on_host(self, train: bool) -> bool:
        """Whether the result of `host` is random."""
        return train and any(op in HOST_OPS for op in self.augment)

    def host_dtype(self) -> type:
        """Return the type of the result of `host`."""
        return np.float32 if self.resize in resize.EXACT else np.uint8

    def host(
        self,
        image: UInt8[np.ndarray, "H W C"],
        size: Size,
        train: bool,
        rng: np.random.Generator | None = None,
    ) -> Shaped[np.ndarray, "H2 W2 C"]:
        """Resizes and crops one image.

        Args:
            image: as decoded.
            size: of the result.
            train: whether crops are random, if the preset has random crops.
            rng: of the random crop.
        """
        height, width, _ = image.shape
        if self.rule == "none":
            return image
        if self.rule == "stretch":
            return resize.on_host(image, *pair(size), self.resize)
        rows, columns = pair(size)
        larger = [math.floor(edge * self.short[0] / self.short[1]) for edge in (rows, columns)]
        if self.rule == "short":
            larger = resize.short_side(height, width, larger[0])
        image = resize.on_host(image, *larger, self.resize)
        height, width, _ = image.shape
        if self.random_on_host(train):
            top, left = rng.integers(0, [height - rows + 1, width - columns + 1])
        else:
            # Python rounds halves to even, as torchvision does.
            near = round if self.offset == "even" else math.floor
            top, left = near((height - rows) / 2), near((width - columns) / 2)
        return image[top : top + rows, left : left + columns]

    def device(
        self,
        images: Num[Array | np.ndarray, "B h w C"],
        size: Size,
        train: bool,
        key: Array | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        channels: int = 3,
    ) -> Float[Array, "B H2 W2 C2"]:
        """Makes the model's input from a batch of pixels, inside the jitted step.

        Images are resized if `host` has not done so. Random numbers are generated for the whole
        batch at once, so they do not depend on how it is spread over devices.

        Args:
            images: values in 0..255.
            size: of the result.
            train: whether to augment.
            key: of the augmentation; may be None where nothing is random.
            dtype: of the result.
            channels: of the model. Grey images become RGB for 3; for 1 they are normalised by the
                mean of the three colours' `mean` and `std`.

        Raises:
            UserError: if the preset does not resize and images have another size, or if images are
                in colour and the model takes one channel.
        """
        x = jnp.asarray(images, jnp.float32)
        rows, columns = pair(size)
        if x.shape[1:3] != (rows, columns):
            if self.rule != "stretch":
                raise UserError(
                    f"preset {self.name!r} got a batch of {x.shape[1]}x{x.shape[2]} images for "
                    f"image_size {rows}x{columns}; only presets with rule 'stretch' resize batches."
                )
            x = resize.on_device(x, rows, columns, self.resize)
        if train:
            for number, op in enumerate(op for op in self.augment if op not in HOST_OPS):
                x = DEVICE_OPS[op](x, jax.random.fold_in(key, number))
        if x.shape[3] not in (1, channels):
            raise UserError(
                f"images have {x.shape[3]} channels and the model takes {channels}. Set "
                f"backbone.channels={x.shape[3]}."
            )
        x = jnp.broadcast_to(x, (*x.shape[:3], channels))
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
        if channels == 1:
            mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
        return ((x / 255 - mean) / std).astype(dtype)


def preset_of_text(text: str, named: Callable[[str], Preset] | None = None) -> Preset:
    """Return the preset that a line of fields describes.

    Args:
        text: words and fields with commas between, such as "bicubic,crop=0.9,mean=0.5,std=0.5".
            mean and std are of red, green and blue with "/" between, or one number for all.
        named: what the name of a preset stands for, whose other fields stay as they are when the
            text begins with it, as in "imagenet,crop=0.9".

    Raises:
        UserError: for an unknown word, a number out of range, or a field that is missing.
    """
    first, *rest = (word.strip() for word in text.split(","))
    out = {}
    if named is not None and "=" not in first and first not in KNOWN:
        base = named(first)
        out = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    else:
        rest = [first, *rest]
    for word in rest:
        out |= _field(word, text, out)
    if missing := [k for k in ("resize", "mean", "std") if k not in out]:
        names = ["an interpolation such as bicubic" if k == "resize" else f"{k}=" for k in missing]
        raise UserError(f"preset {text!r} does not say {' and '.join(names)}. {FORM}")
    if out["resize"] is None:
        out["rule"] = "none"
    return Preset(**out | {"name": ""})


FORM = (
    "A preset is a name, or fields such as bicubic,crop=0.9,mean=0.485/0.456/0.406,std=0.5: how to "
    "resize; crop=SHARE, squash=SHARE or neither; mean and std of values from 0 to 1."
)
RESIZES = {word: kind for kind, word in WORDS.items()}
KNOWN = (*RESIZES, *HOST_OPS, *DEVICE_OPS)
FIELDS = ("crop=", "squash=", "offset=", "mean=", "std=")


def _field(word: str, text: str, before: dict) -> dict:
    """Return the attributes of `Preset` that a word of `text` sets, after those `before`."""
    key, is_set, value = word.partition("=")
    if not is_set and key in RESIZES:
        return {"resize": RESIZES[key]}
    if not is_set and key in (*HOST_OPS, *DEVICE_OPS):
        return {"augment": (*before.get("augment", ()), key)}
    if key in ("crop", "squash") and is_set:
        less, more = (_numbers(value, text, key) + (1,))[:2]
        if not 0 < less <= more:
            raise UserError(f"preset {text!r}: {key}={value} is no share above 0 and up to 1.")
        whole = less == more and key == "squash"
        rule = {"crop": "short", "squash": "stretch" if whole else "squash"}[key]
        return {"rule": rule, "short": (1, 1) if less == more else (more, less)}
    if key == "offset" and value in ("even", "down"):
        return {"offset": value}
    if key in ("mean", "std") and is_set:
        numbers = _numbers(value, text, key)
        numbers = tuple(map(float, numbers * 3 if len(numbers) == 1 else numbers))
        if len(numbers) != 3 or (key == "std" and min(numbers) <= 0):
            raise UserError(
                f"preset {text!r}: {word} is not one number or three with / between"
                + (", all above 0." if key == "std" else ".")
            )
        return {key: numbers}
    raise UserError(
        f"preset {text!r}: {word!r} is unknown. Words: {', '.join((*KNOWN, *FIELDS))}. {FORM}"
    )


def _numbers(value: str, text: str, key: str) -> tuple[int | float, ...]:
    try:
        return tuple(int(v) if v.isdigit() else float(v) for v in value.split("/"))
    except ValueError as e:
        raise UserError(f"preset {text!r}: {key}={value} is no number. {FORM}") from e
