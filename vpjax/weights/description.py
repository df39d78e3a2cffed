"""What a file of weights says about itself: the kind of file, the backbone, its preprocessing.

    WeightsFile      what was found: names and shapes, and the configuration beside the file
    Description      what that means: class and options of a backbone, and what nothing says

A format module turns the first into the second (`describe`). What shapes cannot show (heads,
activation, epsilon, pooling) comes from the configuration, or stands in `open`: then the user must
say it. It is never assumed.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpjax.data.transforms import Preset


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A file of weights, before any array of it is interpreted.

    Attributes:
        where: what the user wrote: a path, an address, a name of the hub.
        path: the file; of several shards the index.
        shapes: shape of every array by its name in the file, without what `stripped` says.
        stripped: the wrapper or prefix in front of the names, such as "state_dict/module."; "".
        library: whose configuration lies beside the file: "transformers" (config.json with
            model_type), "timm" (config.json with architecture), "open_clip"
            (open_clip_config.json); "" without one.
        config: that configuration; {} without one.
        processor: preprocessor_config.json beside it; {} without one.
    """

    where: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    stripped: str = ""
    library: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    processor: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Description:
    """A backbone as its weights describe it.

    Attributes:
        kind: for people, with its article: "a transformers Dinov2Model".
        name: `backbone.name`, such as "vit.ViT".
        options: of that class, as far as file and configuration say them.
        open: options that change the result and that nothing says, such as ("heads", "eps").
        preset: the preprocessing; None where nothing says it.
        resample: how the library of the weights resizes positions, see `vpjax.weights.resample`.
        positions_size: size of images that the file's positions were made for; None: it is
            options["image_size"], which else is the size that the preprocessing makes.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    open: tuple[str, ...] = ()
    preset: Preset | None = None
    resample: str = "bicubic"
    positions_size: int | tuple[int, int] | None = None
