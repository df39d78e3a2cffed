"""SA2VP on a data set of HTA, ten whole data sets: ImageNet-21k ViT-B/16.

    python main.py --config configs/sa2vp_hta.py:task=cifar10 --workdir runs/sa2vp_cifar10

Pei et al. 2024 (arXiv 2312.10376): settings of configs/sa2vp_vtab.py with inter_dim 64 for all.
Train is the first 80 % of the official training split, val the rest, test the official one; the
epoch that is best on val is tested. Sets: cifar10 cifar100 svhn dtd food101 cub dogs flowers; of
the ten, nabirds and gtsrb have no TFDS data set and are not here yet. No published accuracy was
found, so there is no tolerance either. No augmentation, as in the published code's default;
--config.data.preset=sa2vp_fgvc crops and flips. Not measured here: it needs a GPU and the weights.
"""

from ml_collections import ConfigDict

from configs import base
from configs.sa2vp_vtab import sa2vp
from vpjax.errors import unknown

# task: TFDS data set, train, val, test
SETS = {
    "cifar10": ("cifar10", "train[:80%]", "train[80%:]", "test"),
    "cifar100": ("cifar100", "train[:80%]", "train[80%:]", "test"),
    "svhn": ("svhn_cropped", "train[:80%]", "train[80%:]", "test"),
    "dtd": ("dtd", "train", "validation", "test"),
    "food101": ("food101", "train[:80%]", "train[80%:]", "validation"),
    "cub": ("caltech_birds2011", "train[:80%]", "train[80%:]", "test"),
    "dogs": ("stanford_dogs", "train[:80%]", "train[80%:]", "test"),
    "flowers": ("oxford_flowers102", "train", "validation", "test"),
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set.

    Raises: UserError for a data set or mode that does not exist.
    """
    chosen = base.choices(label, task="cifar10", mode="trainval_test")
    task = chosen["task"]
    if task not in SETS:
        raise unknown("data set of HTA", task, SETS)
    config = base.get_config()
    sa2vp(config, "hta", chosen["mode"])
    name, train, val, test = SETS[task]
    test = "" if chosen["mode"] == "train_val" else test
    config.data.update(name=name, train=train, val=val, test=test, preset="sa2vp_vtab")
    config.train.select = "best"
    return config
