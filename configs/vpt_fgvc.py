"""VPT on CUB, Flowers, Dogs, Cars and NABirds: ImageNet-21k ViT-B/16, 224 pixels.

    python main.py --config configs/vpt_fgvc.py:cub --workdir runs/vpt_fgvc_cub
    python main.py --config configs/vpt_fgvc.py:task=dogs,data=fgvc,backbone=swin
    python main.py --config configs/vpt_fgvc.py:task=cub,recipe=memory,pixels=336

task       cub, flowers, dogs, cars, nabirds; also as VPT, SA2VP and TFDS call them
data       "tfds", "fgvc", "cub", "nabirds": what is read; a folder may follow, fgvc:/data/CUB
backbone   vit, swin, mae, moco, convnext, resnet, VPT's own names (sup_vitl16), or any weights
pixels     of the images, such as 112, 224, 336; as the backbone is made for, unless given
recipe     paper; memory: as the memory-saving fork of VPT trains

Jia et al. 2022 (arXiv 2203.12119), tables 1 and 6: SGD, 100 epochs, 10 of warm-up, prompt dropout
0.1, random crop and flip. Accuracy in percent, and its tolerance (spread was not published):

              VPT-deep  VPT-shallow
    cub           88.5         86.7   ± 0.7
    flowers       99.0         98.4   ± 0.5
    dogs          90.2         90.7   ± 0.7
    cars          83.6         68.7   ± 1.5
    nabirds       84.2         78.8   ± 0.7
    mean          89.11        84.62

The published train and val splits are lists of files: data=fgvc reads them and the images from
CUB_200_2011 in data.dir (docs/data.md has the folders). Else val is the last tenth of TFDS's train
split (Flowers: TFDS's own; NABirds: of its own archive, `nabirds` in data.dir), which is another
protocol: say so beside a number. Prompts, learning rate and weight decay were tuned for each data
set and not published, but for a mean of 73 prompts; GRID is what was searched.

recipe=memory is the setting of Efficient-VPT: 100 shallow prompts, batch 64, lr 0.5, no weight
decay, fused attention, and layers recomputed (the fork's own checkpointing leaves the prompts out;
see docs/memory.md for what each choice saves). It publishes no accuracy. --config.remat=none trades
memory for time, --config.method.deep=True makes prompts deep. Not measured here: it needs a GPU and
the weights.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from vpjax.core.errors import UserError, unknown
from vpjax.data import benchmarks
from vpjax.data.names import called
from vpjax.runs import defaults
from vpjax.runs.published import use_backbone

SETS = benchmarks.BENCHMARKS["fgvc"]
GRID = {
    "optim.lr": (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1),
    "optim.weight_decay": (0.01, 0.001, 0.0001, 0.0),
    "method.num_tokens": (1, 5, 10, 50, 100, 200),
}


RECIPES = ("paper", "memory")


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set: "cub", "task=cub" or "task=cub,data=fgvc".

    Raises: UserError for a choice that does not exist.
    """
    chosen = defaults.choices(
        label, task="cub", data="", backbone="vit", pixels="", recipe=RECIPES[0]
    )
    if chosen["recipe"] not in RECIPES:
        raise unknown("recipe of configs/vpt_fgvc.py", chosen["recipe"], RECIPES)
    config, _ = start(chosen)
    if chosen["recipe"] == "memory":
        config.method.update(num_tokens=100, deep=False, dropout=0.1)
        config.train.batch_size = 64
        config.optim.update(name="sgd", lr=0.5, lr_base_batch_size=0, weight_decay=0.0)
        config.attention, config.remat = "auto", "full"
    else:
        config.method.update(num_tokens=50, deep=True, dropout=0.1)
        config.train.batch_size = 128
        config.optim.update(name="sgd", lr=5.0, lr_base_batch_size=256, weight_decay=0.001)
    config.optim.warmup_epochs = 10.0
    return config


def start(chosen: Mapping[str, str], method: str = "vpt.VPT") -> tuple[ConfigDict, str]:
    """Returns what every published run on fine-grained data shares, and the data set.

    Raises: UserError for a choice that does not exist.
    """
    config, task = defaults.get_config(), called("fgvc", chosen["task"])
    config.method = defaults.section("methods", method)
    config.method.head_init = "classes"
    config.data.update(benchmarks.settings("fgvc", task, chosen["data"]), preset="vpt_fgvc")
    config.train.epochs = 100.0
    config.dtype = "bfloat16"
    config.match_reference_code = True
    use_backbone(config, chosen["backbone"])
    if pixels := chosen.get("pixels"):
        if not pixels.isdigit():
            raise UserError(f"image size {pixels!r} is no number of pixels; give 112, 224 or 336")
        config.backbone.image_size = int(pixels)
    return config, task
