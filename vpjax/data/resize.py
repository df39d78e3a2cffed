"""The ways in which published code resizes images; they differ by up to 8 levels on a photo.

On the host (numpy, Pillow):
    pil_bilinear, pil_bicubic   Pillow with antialias, rounds to uint8; torchvision on images
    pil_lanczos                 likewise
    float_bilinear              as pil_bilinear, but not rounded: torchvision on float tensors
    legacy_bilinear             TensorFlow v1's `image.resize`, as the VTAB code of VPT uses it:
                                source coordinate i * in / out without half-pixel centres, no
                                antialias, stays float
On the device (jax): the same. The Pillow kinds are `jax.image.resize` with antialias, rounded
to whole levels as Pillow does: within 1 level of it (bilinear) or 2 (bicubic), except at single
hard edges, since Pillow also rounds between its two passes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num, Shaped, UInt8
from PIL import Image

PIL_FILTERS = {
    "pil_bilinear": Image.Resampling.BILINEAR,
    "pil_bicubic": Image.Resampling.BICUBIC,
    "pil_lanczos": Image.Resampling.LANCZOS,
}
BILINEAR = Image.Resampling.BILINEAR
JAX_METHODS = {"pil_bilinear": "linear", "pil_bicubic": "cubic", "pil_lanczos": "lanczos3"}
JAX_METHODS["float_bilinear"] = "linear"
EXACT = ("legacy_bilinear", "float_bilinear")  # do not round, so their results are float32
KINDS = (*PIL_FILTERS, *EXACT)


def on_host(
    image: UInt8[np.ndarray, "H W C"], height: int, width: int, kind: str
) -> Shaped[np.ndarray, "h w C"]:
    """Resizes one image by one of `KINDS`.

    Returns: uint8 for the Pillow kinds, float32 in 0..255 for those of `EXACT`.
    """
    if kind == "legacy_bilinear":
        return _legacy(image, height, width)
    if kind == "float_bilinear":
        channels = np.moveaxis(image.astype(np.float32), -1, 0)
        resized = (Image.fromarray(c).resize((width, height), BILINEAR) for c in channels)
        return np.stack([np.asarray(c) for c in resized], axis=-1)
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[:, :, 0] if grey else image)
    array = np.asarray(picture.resize((width, height), PIL_FILTERS[kind]))
    return array[:, :, None] if grey else array


def on_device(
    images: Num[Array | np.ndarray, "B H W C"], height: int, width: int, kind: str
) -> Float[Array, "B h w C"]:
    """Resizes a batch by one of `KINDS`, inside a jitted step; values stay in 0..255."""
    images = jnp.asarray(images, jnp.float32)
    if kind == "legacy_bilinear":
        rows = legacy_weights(images.shape[1], height)
        columns = legacy_weights(images.shape[2], width)
        # Highest precision: a TPU or GPU would otherwise multiply grey levels in bfloat16 or tf32.
        return jnp.einsum(
            "hH,wW,bHWc->bhwc", rows, columns, images, precision=jax.lax.Precision.HIGHEST
        )
    shape = (images.shape[0], height, width, images.shape[3])
    resized = jax.image.resize(
        images, shape, JAX_METHODS[kind], antialias=True, precision=jax.lax.Precision.HIGHEST
    )
    return resized if kind in EXACT else jnp.clip(jnp.round(resized), 0, 255)


def short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """Return the size at which the shorter side is `short` and the aspect is kept.

    The longer side is rounded down.
    """
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def _legacy(image, height, width):
    """Resize in TensorFlow's own order of operations: within rows, then between them."""
    left, right, across = legacy_places(image.shape[1], width)
    top, bottom, down = legacy_places(image.shape[0], height)

    def within(rows):
        rows = image[rows]  # still bytes: gathering them is most of the work
        low, high = (rows.take(side, axis=1).astype(np.float32) for side in (left, right))
        return _between(low, high, across[:, None])  # h w C

    return _between(within(top), within(bottom), down[:, None, None])


def _between(low, high, share):
    """Return low + (high - low) * share, in the memory of the two."""
    high -= low
    high *= share
    low += high
    return low


def legacy_places(size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each of `out` pixels of an axis, its two source pixels and the second's share.

    They are floor(x) and floor(x) + 1 at x = i * size / out; the last pixel repeats.
    """
    # In float32 like TensorFlow: where x is nearly whole, floor must fall on the same side.
    x = np.arange(out, dtype=np.float32) * (np.float32(size) / np.float32(out))
    low = np.minimum(np.floor(x).astype(int), size - 1)
    return low, np.minimum(low + 1, size - 1), x - low.astype(np.float32)


@functools.lru_cache(maxsize=64)
def legacy_weights(size: int, out: int) -> Float32[np.ndarray, "out size"]:
    """Return the matrix that resizes one axis as TensorFlow v1 does."""
    low, high, share = legacy_places(size, out)
    weights = np.zeros((out, size), np.float32)
    weights[np.arange(out), low] += 1 - share
    weights[np.arange(out), high] += share
    return weights
