"""The inputs of a run's steps: images here, cached features in `vpjax.runs.features`.

Both have the same interface, so that nothing else needs to know which of the two a run uses:

    inputs.graph             of the model that takes them
    inputs.to_input(train)   function batch, key -> what the model takes, inside a jitted step
    inputs.loader(split)     batches of a split, in the same order for both
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vpjax.core import distributed
from vpjax.data import Loader, preset
from vpjax.data.source import Source


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """How the images of a split are put into batches.

    Attributes:
        batch_size: images of a training batch, over all devices.
        eval_batch_size: the same in evaluation.
        seed: of the order of training images.
        remainder: what happens to training images that fill no batch, see `vpjax.data.loader`.
        reshuffle: whether every epoch has another order.
        images_per_class: of a training batch, which follow each other.
        devices: over which each batch is split; it is padded to a multiple of them.
        accumulate: parts of a training batch, each of which is split over the devices.
    """

    batch_size: int
    eval_batch_size: int
    seed: int = 0
    remainder: str = "wrap"
    reshuffle: bool = True
    images_per_class: int = 1
    devices: int = 1
    accumulate: int = 1

    def of(self, split: str) -> dict[str, Any]:
        """Return the arguments of the loader of a split."""
        training = split == "train"
        return {
            "batch_size": self.batch_size if training else self.eval_batch_size,
            "seed": self.seed,
            "train": training,
            "remainder": self.remainder if training else None,
            "reshuffle": self.reshuffle,
            "images_per_class": self.images_per_class if training else 1,
            "multiple": self.devices * (self.accumulate if training else 1),
        }


@dataclasses.dataclass(frozen=True)
class ImageInputs:
    """Images as uint8, which the step augments and normalises.

    Attributes:
        graph: of the model, see `vpjax.models.partition`.
        sources: the data by split.
        preset: name of the preprocessing.
        image_size: (height, width) in pixels.
        channels: of the images that the model takes.
        dtype: of computation.
        settings: of the loaders.
        loaders: by split, made when they are first needed.
    """

    graph: tuple
    sources: Mapping[str, Source]
    preset: str
    image_size: tuple[int, int]
    channels: int
    dtype: str
    settings: LoaderSettings
    loaders: dict[str, Loader] = dataclasses.field(default_factory=dict)

    cached = False  # whether the backbone's features take the place of images

    @property
    def images(self) -> "ImageInputs":
        """The images themselves; of cached features, those they were computed from."""
        return self

    def to_input(self, train: bool) -> Callable:
        """Return a function batch, key -> images; see `image_to_input`."""
        return image_to_input(self.preset, self.image_size, self.channels, self.dtype, train)

    def loader(self, split: str) -> Loader:
        """Return the loader of a split: shuffled and endless for "train", else one pass."""
        if split not in self.loaders:
            self.loaders[split] = Loader(
                self.sources[split],
                preset=preset(self.preset),
                image_size=self.image_size,
                process_index=distributed.index(),
                process_count=distributed.count(),
                **self.settings.of(split),
            )
        return self.loaders[split]


def image_to_input(
    preset_name: str, image_size: tuple[int, int], channels: int, dtype: str, train: bool = False
) -> Callable:
    """Return a function that prepares the images of a batch for the model, inside a jitted step.

    Args:
        preset_name: the preprocessing.
        image_size: (height, width) in pixels.
        channels: of the images that the model takes.
        dtype: of computation.
        train: whether to augment.

    Returns:
        batch, key -> B H W C of `dtype`. The batch holds "image" (uint8 B H W C); with the key
        None nothing is augmented.
    """
    chosen, dtype = preset(preset_name), jnp.dtype(dtype)

    def to_input(batch, key):
        augments = train and key is not None
        return chosen.device(batch["image"], image_size, augments, key, dtype, channels)

    return to_input
