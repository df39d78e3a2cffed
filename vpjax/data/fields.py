"""How images become a model's input, as fields that can be written in one line of text.

    photo H W C --resize--> --crop--> size size C --> (x / 255 - mean) / std

    bicubic,mean=0.5,std=0.5                    stretched to the size, whatever the aspect
    bicubic,crop=7/8,mean=0.485/0.456/0.406,... the shorter side to size / (7/8), the centre of it
    bicubic,squash=0.9,...                      both sides to size / 0.9, the centre of it
    none,...                                    images of the right size, not resized

Text and fields say the same, see `vpjax.data.preset_text`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped, UInt8

from vpjax.core.errors import UserError
from vpjax.core.size import Size, pair
from vpjax.data import augment_host, resize
from vpjax.data.augment import DEVICE_OPS
from vpjax.data.augment_host import HOST_OPS

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
        augment: random operations of training, on the host those of `vpjax.data.augment_host`, then
            in order those of `vpjax.data.augment`.
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
        return train and bool(self._host_ops())

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
        ops = self._host_ops() if train else {}
        if numbers := ops.get("random_resized_crop"):
            box = augment_host.part(*image.shape[:2], numbers, rng)
            image = image[box.top : box.top + box.height, box.left : box.left + box.width]
            image = resize.on_host(np.ascontiguousarray(image), *pair(size), self.resize)
        else:
            image = self._resized(image, pair(size), rng if "random_crop" in ops else None)
        if numbers := ops.get("rand_augment"):
            kind = resize.PIL_FILTERS.get(self.resize, resize.BILINEAR)
            image = augment_host.rand_augment(image, numbers, self.mean, rng, kind)
        return image

    def _host_ops(self) -> dict[str, tuple[int | float, ...]]:
        names = {op: op.partition("=")[0] for op in self.augment}
        return {n: augment_host.settings(op) for op, n in names.items() if n in HOST_OPS}

    def _resized(
        self,
        image: UInt8[np.ndarray, "H W C"],
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> Shaped[np.ndarray, "H2 W2 C"]:
        """Resize and crop by `rule`, at random with `rng`."""
        height, width, _ = image.shape
        if self.rule == "none":
            return image
        if self.rule == "stretch":
            return resize.on_host(image, *size, self.resize)
        rows, columns = size
        larger = [math.floor(edge * self.short[0] / self.short[1]) for edge in size]
        if self.rule == "short":
            larger = resize.short_side(height, width, larger[0])
        image = resize.on_host(image, *larger, self.resize)
        height, width, _ = image.shape
        if rng is not None:
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
            for number, op in enumerate(op for op in self.augment if op in DEVICE_OPS):
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
