"""Resizes position and patch embeddings to another token grid or patch size.

    positions   h w D -> H W D          the grid is resized as an image is: rows, then columns
    patches     p p C D -> q q C D      <resized image, new kernel> = <image, kernel>, least squares

With R (q p) the resizing of a row of pixels, a patch x becomes R x R^T, and the kernel that gives
it the old response is pinv(R)^T w pinv(R). This is not the resized kernel: its numbers are larger
by about the ratio of the areas. Source: FlexiViT (Beyer et al. 2022, arXiv 2212.08013).

    align_corners           linear between corner cells, which stay; positions only (VPT's rule)
    bicubic                 Keys' cubic (a = -1/2), antialiased; timm's rule for its own checkpoints
    bicubic_no_antialias    torch's cubic (a = -3/4), not antialiased, the border repeated:
                            transformers' rule
    bilinear                a triangle, not antialiased; timm's rule for Google's npz files
    bilinear_antialias      a triangle, wider where a grid shrinks: SigLIP 2's rule

All are computed in float64.
"""

from collections.abc import Callable

import numpy as np

from vpjax.core.errors import UserError, unknown

RULES = ("align_corners", "bicubic", "bicubic_no_antialias", "bilinear", "bilinear_antialias")


def resize_grid(
    cells: np.ndarray, grid: tuple[int, int], rule: str = "align_corners"
) -> np.ndarray:
    """Resizes position embeddings h w D to the rows and columns of `grid`.

    Raises: UserError for an unknown rule.
    """
    rows, columns = (matrix(old, new, rule) for old, new in zip(cells.shape[:2], grid, strict=True))
    out = np.einsum("ih,jw,hwd->ijd", rows, columns, cells.astype(np.float64))
    return out.astype(cells.dtype)


def resize_patches(kernel: np.ndarray, patch_size: tuple[int, int], rule: str) -> np.ndarray:
    """Resize a patch embedding p p C D to patches of `patch_size` pixels, by pseudo-inverse.

    Exact where patches grow: then every response to a resized image is the old one.
    Raises: UserError for the rule "align_corners", which does not resize patches.
    """
    if rule == "align_corners":
        raise UserError("resample='align_corners' resizes positions only; patches need 'bicubic'")
    sizes = zip(kernel.shape[:2], patch_size, strict=True)
    rows, columns = (np.linalg.pinv(matrix(old, new, rule)) for old, new in sizes)  # p q
    out = np.einsum("yi,xj,yxcd->ijcd", rows, columns, kernel.astype(np.float64))
    return out.astype(kernel.dtype)


def matrix(old: int, new: int, rule: str) -> np.ndarray:
    """Return the matrix (new old, float64) that resizes a row; its rows sum to 1."""
    if rule not in RULES:
        raise unknown("resample", rule, RULES)
    if rule == "align_corners":
        position = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
        return _weights(position, old, _triangle)
    position = (np.arange(new) + 0.5) * old / new - 0.5  # of pixel centres
    if rule == "bilinear":
        return _weights(position, old, _triangle)
    if rule == "bilinear_antialias":
        return _weights(position, old, _triangle, max(1.0, old / new))
    if rule == "bicubic_no_antialias":
        return _repeating_border(position, old)
    return _weights(position, old, _cubic, max(1.0, old / new))


def _weights(position: np.ndarray, old: int, kernel: Callable, width: float = 1.0) -> np.ndarray:
    """Sample a kernel `width` cells wide around each position; cells outside do not count."""
    out = kernel(np.abs(position[:, None] - np.arange(old)[None]) / width)
    return out / out.sum(1, keepdims=True)


def _repeating_border(position: np.ndarray, old: int) -> np.ndarray:
    """Weigh the four cells around each position; one outside counts for the border's."""
    out = np.zeros((len(position), old))
    for offset in (-1, 0, 1, 2):
        cell = np.floor(position).astype(int) + offset
        share = _cubic(np.abs(position - cell), -0.75)
        np.add.at(out, (np.arange(len(position)), np.clip(cell, 0, old - 1)), share)
    return out


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - x)


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1.0
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
