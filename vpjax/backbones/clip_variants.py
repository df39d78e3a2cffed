"""The released sizes of CLIP with a ViT, by each of their names.

B/16     ViT-B/16     ViT-B-16     openai/clip-vit-base-patch16
"""

import dataclasses
import re

from vpjax.core.errors import unknown


@dataclasses.dataclass(frozen=True)
class Variant:
    """Sizes of both towers.

    Attributes:
        vision: the variant of `vit.ViT` that the vision tower has the sizes of.
        image_size: an edge, pixels.
        joint_dim: width of the features of both towers.
        text_dim: width of the text tower's tokens.
        text_heads: number of the text tower's attention heads.
        hub: name on the Hugging Face hub.
    """

    vision: str
    image_size: int
    joint_dim: int
    text_dim: int
    text_heads: int
    hub: str


VARIANTS = {
    "B/32": Variant("B/32", 224, 512, 512, 8, "openai/clip-vit-base-patch32"),
    "B/16": Variant("B/16", 224, 512, 512, 8, "openai/clip-vit-base-patch16"),
    "L/14": Variant("L/14", 224, 768, 768, 12, "openai/clip-vit-large-patch14"),
    "L/14@336": Variant("L/14", 336, 768, 768, 12, "openai/clip-vit-large-patch14-336"),
}


def variant(name: str) -> Variant:
    """Return a variant by its name here, OpenAI's ("ViT-L/14@336px"), OpenCLIP's or the hub's.

    Raises: UserError for an unknown name.
    """
    short = name.removeprefix("ViT-").removesuffix("-quickgelu").removesuffix("px")
    short = re.sub(r"^([BL])-(\d+)(?:-(\d+))?$", r"\1/\2@\3", short).removesuffix("@")
    for key, found in VARIANTS.items():
        if name == found.hub or short == key:
            return found
    raise unknown("CLIP variant", name, [*VARIANTS, *(v.hub for v in VARIANTS.values())])
