"""Mixes the images of a batch in pairs, and their losses in the same proportion.

    mixup     x = share * x_i + (1 - share) * x_j         share from Beta(alpha, alpha)
    cutmix    x_i, with a box of x_j that has 1 - share of the area

    loss = share * loss(x, y_i) + (1 - share) * loss(x, y_j)

x_j is image B - 1 - i of the batch, and all pairs of a batch have the same share, as in timm. With
both alphas, half of the batches get either. Cross entropy is linear in its target, so the loss is
that of the mixed target, also with label smoothing. Sources: Zhang et al. 2018, arXiv 1710.09412;
Yun et al. 2019, arXiv 1905.04899.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpjax.core.errors import UserError


def make_mix(mixup: float = 0.0, cutmix: float = 0.0) -> Callable | None:
    """Return a function that mixes a batch, see `mix`; None if both are 0.

    Args:
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of cutmix; 0: none.

    Raises:
        UserError: if one is negative.
    """
    if min(mixup, cutmix) < 0:
        raise UserError(
            f"train.mixup is {mixup}, train.cutmix {cutmix}; each is 0 (none) or the alpha of a "
            "Beta distribution, such as 0.2 or 1"
        )
    if not mixup and not cutmix:
        return None
    return lambda images, weight, key: mix(images, weight, key, mixup, cutmix)


def mix(
    images: Float[Array, "B H W C"],
    weight: Float[Array, " B"],
    key: Array,
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "B H W C"], Float[Array, " B"]]:
    """Return mixed images, and each image's own share of the loss.

    Args:
        images: of a batch.
        weight: 0 for padding, with which nothing is mixed.
        key: of the random numbers.
        mixup, cutmix: alphas; 0: none.
    """
    keys = jax.random.split(key, 4)
    boxes = jax.random.bernoulli(keys[0]) if mixup and cutmix else bool(cutmix)
    alpha = jnp.where(boxes, cutmix or mixup, mixup or cutmix)
    share = jax.random.beta(keys[1], alpha, alpha)
    inside, left = box(keys[2], images.shape[1:3], share)
    share = jnp.where(boxes, left, share)
    own = jnp.where(boxes, 1.0 - inside, share)[None, :, :, None].astype(images.dtype)
    paired = jnp.flip(weight) > 0
    own = jnp.where(paired[:, None, None, None], own, 1)
    mixed = images * own + jnp.flip(images, 0) * (1 - own)
    return mixed, jnp.where(paired, share, 1.0)


def box(
    key: Array, size: tuple[int, int], share: Float[Array, ""]
) -> tuple[Float[Array, "H W"], Float[Array, ""]]:
    """Return where a box of 1 - `share` of the area lies (ones), and the share that is left.

    Its centre is anywhere in the image, so that a part of it may lie outside.
    """
    ranges = []
    for own, edge in zip(jax.random.split(key), size, strict=True):
        length = jnp.floor(edge * jnp.sqrt(1 - share)).astype(int)
        centre = jax.random.randint(own, (), 0, edge)
        at = jnp.arange(edge)
        ranges.append((at >= centre - length // 2) & (at < centre + (length + 1) // 2))
    inside = (ranges[0][:, None] & ranges[1]).astype(jnp.float32)
    return inside, 1 - inside.mean()


def mixed_criterion(criterion: Callable, share: Float[Array, " B"]) -> Callable:
    """Return the loss of mixed images, logits, labels -> B; labels are those of the images' own."""
    return lambda logits, labels: (
        share * criterion(logits, labels) + (1 - share) * criterion(logits, jnp.flip(labels, 0))
    )
