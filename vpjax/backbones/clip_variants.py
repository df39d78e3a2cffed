"""The released sizes of CLIP with a ViT, by any of their names.

B/16   ViT-B/16   openai/clip-vit-base-patch16
"""

import dataclasses

from vpjax.core.errors import unknown


@dataclasses.dataclass(frozen=True)
class Variant:
    """Sizes of both towers; the vision tower's other numbers are those of a ViT `vision`."""

    vision: str  # "B/16": size and patch
    image_size: int  # pixels
    joint_dim: int  # width of what both towers give
    text_dim: int
    text_heads: int
    hub: str  # name of the repository on the Hugging Face hub


VARIANTS = {
    "B/32": Variant("B/32", 224, 512, 512, 8, "openai/clip-vit-base-patch32"),
    "B/16": Variant("B/16", 224, 512, 512, 8, "openai/clip-vit-base-patch16"),
    "L/14": Variant("L/14", 224, 768, 768, 12, "openai/clip-vit-large-patch14"),
    "L/14@336": Variant("L/14", 336, 768, 768, 12, "openai/clip-vit-large-patch14-336"),
}


def variant(name: str) -> Variant:
    """Returns a variant by its name here, OpenAI's ("ViT-L/14@336px") or the hub's.

    Raises: UserError for an unknown name.
    """
    short = name.removeprefix("ViT-").removesuffix("px")
    for key, found in VARIANTS.items():
        if name == found.hub or short == key:
            return found
    raise unknown("CLIP variant", name, [*VARIANTS, *(v.hub for v in VARIANTS.values())])
