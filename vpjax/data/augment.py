"""Random operations of training on a batch, inside the jitted step.

flip        left to right, with probability 1/2
pad_crop    4 black pixels on every side, then the old size from anywhere
rotate      by -10 to 10 degrees about the centre
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PAD = 4  # pixels of black around the image before pad_crop
ANGLE = 10.0  # degrees, the most that rotate turns either way


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
