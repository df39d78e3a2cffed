"""SA2VP on a data set of HTA, ten whole data sets: ImageNet-21k ViT-B/16.

    python main.py --config configs/sa2vp_hta.py:task=cifar10 --workdir runs/sa2vp_cifar10

Pei et al. 2024 (arXiv 2312.10376): settings of configs/sa2vp_vtab.py with inter_dim 64 for all.
Train is the first 80 % of the official training split, val the rest, test the official one; the
epoch that is best on val is tested (mode=published), or the last, trained on both (trainval_test).
mode=train_val leaves the test split alone. Sets: cifar10 cifar100 svhn dtd food101 gtsrb cub
nabirds dogs flowers; of gtsrb and nabirds their own archives are read, from `GTSRB` and `nabirds`
in data.dir, and with data=fgvc VPT's lists for the last four. Food-101, GTSRB and NABirds have one
order, where the published code shuffled anew, so that val held images of train. No published
accuracy was found, so there is no tolerance either. No augmentation, as in the published code's
default; --config.data.preset=sa2vp_fgvc crops and flips; backbone=swin is Swin-B, with r = 8. Not
measured here: it needs a GPU and the weights.
"""

from ml_collections import ConfigDict

from configs.sa2vp_vtab import protocol, sa2vp
from vpjax.data import benchmarks
from vpjax.runs import defaults

SETS = benchmarks.BENCHMARKS["hta"]


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set.

    Raises: UserError for a data set or mode that does not exist.
    """
    chosen = defaults.choices(label, task="cifar10", mode="published", data="", backbone="vit")
    data = benchmarks.settings("hta", chosen["task"], chosen["data"])
    config = defaults.get_config()
    sa2vp(config, "hta", chosen["backbone"])
    config.data.preset = "sa2vp_vtab"
    protocol(config, chosen["mode"], benchmarks.Opening(**data))
    return config
