"""Preprocessing by name, one preset for each published recipe that results are compared with.

Work is split where the size of the data changes. Photos are resized and cropped on the host and
stay uint8; everything else happens inside the jitted step, on the whole batch:

    host    photo H W C --resize, crop--> uint8 size size C     (small equal-sized images: nothing)
    device  uint8 B h w C --resize, pad_crop, rotate, flip--> grey to RGB --> (x / 255 - mean) / std
                                                   (or grey stays, for models of one channel)

One exception: legacy_bilinear must not round, so a photo resized that way leaves the host as
float32 in 0..255, at four times the size.
Results of different presets do not belong in one table.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped, UInt8

from vpjax.core.errors import UserError, unknown
from vpjax.core.size import Size, pair
from vpjax.data import resize

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HOST_OPS = ("random_crop",)
PAD = 4  # pixels of black around the image before pad_crop
ANGLE = 10.0  # degrees, the most that rotate turns either way


@dataclasses.dataclass(frozen=True)
class Preset:
    """How images become the model's input.

    Attributes:
        name: key in `PRESETS`.
        mean, std: of red, green and blue, for values from 0 to 1.
        resize: one of `resize.KINDS`; None where `rule` is "none".
        rule: "stretch" resizes to size x size whatever the aspect; "short" resizes the shorter side
            to size * short[0] // short[1] and crops size x size from the centre, or from anywhere
            if `augment` has "random_crop"; "none" expects images of the right size.
        short: see `rule`.
        augment: random operations of training, in order: random_crop, pad_crop, rotate, flip.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str | None = None
    rule: str = "stretch"
    short: tuple[int, int] = (1, 1)
    augment: tuple[str, ...] = ()

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
                    f"another preset: {', '.join(PRESETS)}."
                )
            return False
        if self.rule == "short" or height is None or width is None:
            return True
        return height * width > rows * columns

    def random_on_host(self, train: bool) -> bool:
        """Whether the result of `host` is random."""
        return train and any(op in HOST_OPS for op in self.augment)

    def host_dtype(self) -> type:
        """Return the type of the result of `host`."""
        return np.float32 if self.resize == "legacy_bilinear" else np.uint8

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
        size, _ = pair(size)
        short = size * self.short[0] // self.short[1]
        height, width = resize.short_side(height, width, short)
        image = resize.on_host(image, height, width, self.resize)
        if self.random_on_host(train):
            top, left = rng.integers(0, [height - size + 1, width - size + 1])
        else:
            # Python rounds halves to even, as the reference does.
            top, left = round((height - size) / 2), round((width - size) / 2)
        return image[top : top + size, left : left + size]

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


def flip(images: Float[Array, "B H W C"], key: Array) -> Float[Array, "B H W C"]:
    """Mirror each image left to right with probability one half."""
    turned = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(turned, images[:, :, ::-1], images)


def pad_crop(images: Float[Array, "B H W C"], key: Array) -> Float[Array, "B H W C"]:
    """Pad each image by 4 black pixels on every side and crops the old size at random."""
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * PAD + 1)
    padded = jnp.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, corners)


def rotate(images: Float[Array, "B H W C"], key: Array) -> Float[Array, "B H W C"]:
    """Rotate each image about its centre by -10 to 10 degrees: nearest pixel, black corners."""
    angles = jax.random.uniform(key, (len(images),), minval=-ANGLE, maxval=ANGLE)
    return jax.vmap(turn)(images, angles)


def turn(image: Float[Array, "H W C"], degrees: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Rotate one image anticlockwise, as Pillow's nearest-neighbour `rotate` does."""
    height, width, _ = image.shape
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    # Pixel centres relative to the image's centre; each target pixel looks up where it came from.
    y, x = jnp.meshgrid(
        jnp.arange(height) + 0.5 - height / 2, jnp.arange(width) + 0.5 - width / 2, indexing="ij"
    )
    column = jnp.floor(cos * x - sin * y + width / 2).astype(jnp.int32)
    row = jnp.floor(sin * x + cos * y + height / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    # Rows and columns outside are clipped by the lookup and then made black.
    return jnp.where(inside[:, :, None], image[row, column], 0)


DEVICE_OPS = {"flip": flip, "pad_crop": pad_crop, "rotate": rotate}

PRESETS = {
    preset.name: preset
    for preset in (
        # VPT, VTAB-1k (KMnP/vpt), and methods that build on its TFDS loader
        Preset("vpt_vtab", *IMAGENET, "legacy_bilinear"),
        # VPT, FGVC: short side 256 for 224, 438 for 384, 512 for 448; by that rule, 256 / 224 of
        # the crop rounded down, also for other crops, where the published code fails
        Preset("vpt_fgvc", *IMAGENET, "pil_bilinear", "short", (8, 7), ("random_crop", "flip")),
        # SSF with --direct-resize --no-aug
        Preset("ssf_vtab", *HALF, "pil_bicubic"),
        # NOAH with direct resize, FacT
        Preset("noah_vtab", *IMAGENET, "pil_bicubic"),
        # Binary Adapter's "unnormalised"
        Preset("raw_vtab", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "pil_bicubic"),
        # SA2VP
        Preset("sa2vp_vtab", *HALF, "pil_bilinear"),
        Preset("sa2vp_fgvc", *HALF, "pil_bilinear", "short", (8, 7), ("random_crop", "flip")),
        # What the Google ViT files were trained with: the choice for new experiments
        Preset("inception", *HALF, "pil_bilinear"),
        Preset("inception_crop", *HALF, "pil_bilinear", "short", (8, 7), ("random_crop", "flip")),
        # What MAE, MoCo v3, Swin and convolutional networks were trained with, as inception above
        Preset("imagenet", *IMAGENET, "pil_bicubic"),
        Preset("imagenet_crop", *IMAGENET, "pil_bicubic", "short", (8, 7), ("random_crop", "flip")),
        # MoP-CLIP and zero-shot CLIP
        Preset("clip", *CLIP, "pil_bicubic", "short"),
        # MS-VP
        Preset("msvp_mnist", *HALF, rule="none", augment=("pad_crop", "rotate")),
        Preset(
            "msvp_cifar",
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
            rule="none",
            augment=("pad_crop", "flip"),
        ),
        # ViT-B/4 on CIFAR-10; its standard deviations are another estimate
        Preset(
            "vitb4_cifar",
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
            rule="none",
            augment=("pad_crop", "flip"),
        ),
        # The bundled 8x8 digits
        Preset("digits", *HALF, "pil_bilinear"),
    )
}


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises: UserError with the nearest name if there is none.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
