"""ResNet and ConvNeXt: names of the torch models, whose layers were sorted by what trains.

    frozen_layers.layer3.0.bn1.weight       prompt_layers.conv1.weight
    tuned_layers.layer4.conv1.weight        the last block of the stage, where only it is tuned

Without the first word these are torchvision's names, and nearly ConvNeXt's released ones, which the
library's own tables translate.
"""

import re
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from tests.golden.record import NotUnderstood, Record
from vpjax.backbones.convnext import ConvNeXt
from vpjax.backbones.resnet import ResNet
from vpjax.models.model import Model
from vpjax.weights import convnext, resnet


def backbone(
    meta: Record, image_size: tuple[int, int], match_reference_code: bool, rngs: nnx.Rngs
) -> ConvNeXt | ResNet:
    """Return the network of a case; a ResNet has one bottleneck a stage unless it says more."""
    arch = meta["arch"]
    arch.ignore("img")  # the image size says it
    options = {"depths": tuple(arch.get("depths", (1, 1, 1, 1)))}
    if meta["family"] == "convnext":
        options["dims"] = tuple(arch["dims"])
        make = ConvNeXt
    else:
        options |= {"widths": (arch["width"],) * 4, "stem_dim": 64, "expansion": 2}
        make = ResNet
    return make(image_size=image_size, **options, rngs=rngs)


def weights(meta: Record) -> None:
    """Return None, no checkpoint: the recorded networks were built with random numbers."""


def translate(name: str, value: np.ndarray, backbone: ConvNeXt | ResNet) -> dict[str, np.ndarray]:
    """Bring one parameter to our names and shapes."""
    theirs = re.sub(r"^(frozen|tuned|prompt)_layers\.", "", name)
    stages = [site.stage for site in backbone.sites]
    first = [stages.index(stage) for stage in sorted(set(stages))]
    if isinstance(backbone, ResNet):
        single = rf"layer\1.{len(stages) - first[-1] - 1}."
        theirs = re.sub(r"^layer(\d)\.(?!\d)", single, theirs)
        ours = resnet.our_name(theirs, first)
    else:
        first = first[:1] + [i + 1 for i in first[1:]]  # behind what halves the resolution
        single = rf"stage\1.{len(stages) - first[-1] - 1}."
        theirs = re.sub(r"^stage(\d)\.(?!\d)", single, theirs)
        count = lambda m: f"{m[1]}s.{int(m[2]) - 1}."  # noqa: E731
        theirs = re.sub(r"^(downsample_layer|stage)(\d)\.", count, theirs)
        ours = convnext.our_name(theirs, first)
    if ours == theirs:
        raise NotUnderstood(f"parameter {name}")
    return {f"backbone/{ours}": resnet.our_layout(value)}


def intermediates(model: Model, images: jax.Array, arrays: Record) -> Iterator[tuple]:
    """Yield nothing: no result between images and features was recorded."""
    yield from ()
