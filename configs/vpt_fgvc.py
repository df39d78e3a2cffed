"""VPT-deep on fine-grained classes, as published: ImageNet-21k ViT-B/16, 224 pixels.

    python main.py --config configs/vpt_fgvc.py:cub --workdir runs/vpt_fgvc_cub

Jia et al. 2022 (arXiv 2203.12119), tables 1 and 6: SGD, 100 epochs, 10 of warm-up, prompt dropout
0.1, random crop and flip. Accuracy in percent, and its tolerance (spread was not published):

              VPT-deep  VPT-shallow
    cub           88.5         86.7   ± 0.7
    flowers       99.0         98.4   ± 0.5
    dogs          90.2         90.7   ± 0.7
    cars          83.6         68.7   ± 1.5
    nabirds       84.2         78.8   ± 0.7
    mean          89.11        84.62

The published train and val splits are lists of files: task=cub,data=fgvc reads them and the images
from CUB_200_2011 in data.dir (docs/data.md has the folders). Without data=fgvc, val is the last
tenth of TFDS's train split (Flowers: TFDS's own; NABirds: of its own archive, `nabirds` in
data.dir), which is another protocol: say so beside a number. Prompts, learning rate and weight
decay were tuned for each data set and not published, but for a mean of 73 prompts; GRID is what
was searched. Not measured here: it needs a GPU and the weights.
"""

from ml_collections import ConfigDict

from vpjax.data import benchmarks
from vpjax.runs import defaults

SETS = benchmarks.BENCHMARKS["fgvc"]
GRID = {
    "optim.lr": (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1),
    "optim.weight_decay": (0.01, 0.001, 0.0001, 0.0),
    "method.num_tokens": (1, 5, 10, 50, 100, 200),
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set: "cub", "task=cub" or "task=cub,data=fgvc"."""
    chosen = defaults.choices(label, task="cub", data="")
    config = defaults.get_config()
    fgvc(config, chosen["task"], chosen["data"])
    config.method.update(num_tokens=50, deep=True, dropout=0.1)
    config.train.batch_size = 128
    config.optim.update(
        name="sgd", lr=5.0, lr_base_batch_size=256, weight_decay=0.001, warmup_epochs=10.0
    )
    return config


def fgvc(config: ConfigDict, task: str, data: str = "") -> None:
    """Sets what every published run on fine-grained data shares.

    Raises: UserError if there is no such data set, or it cannot be read from `data`.
    """
    config.method.head_init = "classes"
    config.data.update(**benchmarks.settings("fgvc", task, data), preset="vpt_fgvc")
    config.train.epochs = 100.0
    config.dtype = "bfloat16"
    config.match_reference_code = True
