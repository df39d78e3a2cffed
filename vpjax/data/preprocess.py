"""Images of any kind as what a backbone takes: resized, cropped and normalised by a preset."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vpjax.core.errors import UserError
from vpjax.core.size import Size, pair
from vpjax.data.transforms import preset


def preprocess(
    images: Any,
    preset_name: str,
    image_size: Size,
    channels: int = 3,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Float[Array, "B H2 W2 C2"]:
    """Return images as a backbone takes them, without augmentation.

    Args:
        images: uint8 `B H W C` (or one image, `H W C`), or a list of uint8 `H W C` of any sizes.
        preset_name: the preprocessing, such as "imagenet"; see `vpjax.data.PRESETS`.
        image_size: pixels of an edge, or (height, width).
        channels: that the backbone takes.
        dtype: of the result.

    Raises:
        UserError: for images that are not uint8 or have another number of axes.
    """
    chosen, size = preset(preset_name), pair(image_size)
    if not isinstance(images, Sequence):
        if getattr(images, "ndim", 0) == 3:
            images = images[None]
        _check(images, 4)
        if isinstance(images, jax.Array) and images.shape[1:3] == size:  # also inside jit
            return chosen.device(images, size, False, dtype=dtype, channels=channels)
        images = list(np.asarray(images))
    for image in images:
        _check(image, 3)
    on_host = [chosen.on_host(image.shape, size) for image in images]
    made = [
        chosen.host(np.asarray(image), size, train=False) if host else np.asarray(image)
        for image, host in zip(images, on_host, strict=True)
    ]
    device = lambda batch: chosen.device(batch, size, False, dtype=dtype, channels=channels)  # noqa: E731
    if len({image.shape for image in made}) == 1:
        return device(np.stack(made))
    return jnp.concatenate([device(image[None]) for image in made])


def _check(images: Any, ndim: int) -> None:
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if dtype != np.uint8 or len(shape) != ndim:
        axes = "B H W C" if ndim == 4 else "H W C"
        raise UserError(
            f"images are {dtype} of shape {shape}; expected uint8 {axes} with values 0 to 255"
        )
