"""Your own photos: a folder with a folder for each class, and nothing else.

    python main.py train photos/
    python main.py --config configs/photos.py:photos/,method=vpt_deep
    python main.py train list.csv --config photos:method=linear+vpt_shallow+vpt_deep

    PATH      a folder of class folders, with train, val and test above them or without; a list
              path,label[,split] (.csv); or the name of a TFDS data set
    method    a key of METHODS below, several joined by "+", which are compared; or a class of your
              own, such as mylab.prompts.Shallow
    backbone  a name of the hub, a folder or a file of weights; BACKBONE below, 84 MB (Apache-2.0)

Splits that the data lack are taken from train: 15 % of every class for test and as many for val,
listed in the run's splits.csv. Preprocessing is that of the weights. Batch and epochs go by the
number of training images, see LENGTHS; the rate is the method's, for AdamW with a cosine. Any key
can be changed: --config.train.epochs=40.

Without a network the embedded backbone stands in, with a warning: it has 0.1 M parameters and knows
digits of 8 x 8 pixels. The default, a linear probe, computes each image's features once: 100 photos
take a minute or two on two CPU cores. Prompts pass every image through the whole backbone in every
epoch: choose them where there is a GPU, or minutes to wait. See docs/photos.md.
"""

import logging
import re

from ml_collections import ConfigDict

from vpjax.core.errors import UserError, unknown
from vpjax.data import open_source
from vpjax.data.own import own_data
from vpjax.runs import defaults
from vpjax.runs.config import use_weights
from vpjax.runs.experiment import held
from vpjax.weights import hub

log = logging.getLogger("vpjax")

BACKBONE = "facebook/dinov2-small"
EMBEDDED = "digits_vit"
SHARE = 0.15  # of train, for val and for test
CHOICES = ("method", "backbone")

# method: class, its options, peak rate
METHODS = {
    "linear": ("finetune.Linear", {}, 1e-3),
    "vpt_shallow": ("vpt.VPT", {"num_tokens": 10, "deep": False}, 1e-2),
    "vpt_deep": ("vpt.VPT", {"num_tokens": 10, "deep": True}, 3e-3),
    "adapter": ("adapter.Adapter", {}, 1e-3),
    "bias": ("finetune.Bias", {}, 1e-3),
    "partial": ("finetune.Partial", {"num_layers": 1}, 3e-4),
    "full": ("finetune.Full", {}, 3e-5),
}
RATE = 3e-3  # of a class of one's own

# Training images up to, images of a step, epochs. The epochs of a linear probe cost next to
# nothing: it takes five times as many.
LENGTHS = (
    (250, 8, 20),
    (2_000, 16, 20),
    (20_000, 64, 10),
    (200_000, 128, 5),
    (float("inf"), 256, 2),
)


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe for the data at a place.

    Raises: UserError for data, a method or weights that do not exist.
    """
    place, chosen = read(label)
    config = defaults.get_config()
    config.data.update(name=own_data(place), train="train", val="val", test="test")
    config.data.holdout = SHARE
    use_weights(config, chosen["backbone"] or available())
    methods = chosen["method"].split("+")
    images = len(open_source(config.data.name, "train", holdout=held(config)))
    _, batch, epochs = next(row for row in LENGTHS if images <= row[0])
    config.train.update(batch_size=batch, eval_every=epochs / 5, log_every=10)
    config.data.eval_batch_size = 32
    config.optim.update(name="adamw", lr_base_batch_size=0, weight_decay=1e-4, clip_norm=1.0)
    cells = {method: changes(method, epochs) for method in methods}
    config.method = defaults.section("methods", **cells[methods[0]]["method"])
    config.train.update(cells[methods[0]]["train"])
    config.optim.update(cells[methods[0]]["optim"])
    if len(cells) > 1:
        config.study.compare = ConfigDict(cells)
        config.study.cells = tuple(cells)
    return config


def changes(method: str, epochs: float) -> dict:
    """Returns what a method changes of the config.

    Raises: UserError if there is no such method.
    """
    if method not in METHODS and "." not in method:
        raise unknown("method of configs/photos.py", method, METHODS)
    name, options, rate = METHODS.get(method, (method, {}, RATE))
    epochs = epochs * 5.0 if method == "linear" else float(epochs)
    return {
        "method": {"name": name, **options},
        "train": {"epochs": epochs, "eval_every": epochs / 5},
        "optim": {"lr": rate, "warmup_epochs": epochs / 10},
    }


def read(label: str) -> tuple[str, dict[str, str]]:
    """Returns the place of the data and the choices behind it; the path may have commas.

    Raises: UserError if there is no place.
    """
    chosen = {"method": "linear", "backbone": ""}
    parts, place = label.split(","), []
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key in CHOICES:
            chosen[key] = value or chosen[key]
        elif equals and re.fullmatch(r"\w+", key) and place:
            raise unknown("choice of configs/photos.py", key, CHOICES)
        else:
            place.append(part)
    if not (path := ",".join(place)):
        raise UserError(
            "the recipe photos needs data: a folder that holds a folder of images for each class, "
            "as in train photos/ or --config photos:photos/,method=vpt_deep"
        )
    return path, chosen


def available() -> str:
    """Returns the default backbone, fetched if need be, or the embedded one without a network."""
    try:
        hub.weights_in(BACKBONE)
    except UserError as e:
        log.warning(
            "warning   %s is not here and cannot be fetched; %s stands in. It has 0.1 M parameters "
            "and knows digits of 8 x 8 pixels: it shows the steps, not what photos can give. Fetch "
            "it where there is a network, or give weights: backbone=FILE. Why: %s",
            BACKBONE,
            EMBEDDED,
            str(e).partition("\n")[0][:300],
        )
        return EMBEDDED
    return BACKBONE
