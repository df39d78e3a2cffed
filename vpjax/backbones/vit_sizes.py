"""Sizes of Vision Transformers by name: Ti, S, B, L and H of the papers, and later ones.

Dosovitskiy et al. 2021, arXiv 2010.11929; g and G: Zhai et al. 2022, arXiv 2106.04560; So400m:
Alabdulmohsin et al. 2023, arXiv 2305.13035; giant: DINOv2, whose MLP is gated (arXiv 2304.07193).
"""

from collections.abc import Mapping

from vpjax.core.errors import unknown

Sizes = Mapping[str, tuple[int, int, int, int]]

# size: dim, mlp_dim, heads, depth
SIZES: Sizes = {
    "Ti": (192, 768, 3, 12),
    "S": (384, 1536, 6, 12),
    "M": (512, 2048, 8, 12),
    "B": (768, 3072, 12, 12),
    "L": (1024, 4096, 16, 24),
    "H": (1280, 5120, 16, 32),
    "So400m": (1152, 4304, 16, 27),
    "g": (1408, 6144, 16, 40),
    "giant": (1536, 4096, 24, 40),
    "G": (1664, 8192, 16, 48),
}


def parse(variant: str, sizes: Sizes = SIZES) -> tuple[str, int]:
    """Return size and patch size of a variant: ("B", 16) for "B/16".

    Raises: UserError for an unknown size, or without a patch size.
    """
    size, _, patch = variant.partition("/")
    if size not in sizes or not patch.isdigit() or int(patch) == 0:
        raise unknown("ViT variant (SIZE/PATCH)", variant, [f"{s}/16" for s in sizes])
    return size, int(patch)
