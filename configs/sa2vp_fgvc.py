"""SA2VP on fine-grained classes, as published: ImageNet-21k ViT-B/16.

    python main.py --config configs/sa2vp_fgvc.py:task=cub --workdir runs/sa2vp_cub
    python main.py --config configs/sa2vp_fgvc.py:task=cub,mode=train_val --workdir runs/sa2vp_val

Pei et al. 2024 (arXiv 2312.10376): settings of configs/sa2vp_vtab.py, with random crop and flip.
The published runs train on the train split alone, take the epoch that is best on val, and test it:
mode=published. mode=trainval_test trains on train and val together and tests the last epoch;
mode=train_val is the first without the test split. Accuracy in percent (another paper's
table for the mean, arXiv 2501.18936; values of single sets are not from the paper itself):

    cub 89.1   nabirds 85.8   flowers 99.3   dogs 92.1   cars 84.1
    mean 90.08

Tolerance: 1.0 (spread over seeds was not published). Splits as in configs/vpt_fgvc.py: data=fgvc
reads the published lists of files; backbone=swin is Swin-B, with r = 8. Not measured here: it needs
a GPU and the weights.
"""

from ml_collections import ConfigDict

from configs.sa2vp_vtab import protocol, sa2vp
from vpjax.data import benchmarks
from vpjax.data.names import called
from vpjax.runs import defaults


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set.

    Raises: UserError for a data set or mode that does not exist.
    """
    chosen = defaults.choices(label, task="cub", mode="published", data="", backbone="vit")
    data = benchmarks.settings("fgvc", chosen["task"], chosen["data"])
    config = defaults.get_config()
    sa2vp(config, called("fgvc", chosen["task"]), chosen["backbone"])
    config.data.preset = "sa2vp_fgvc"
    protocol(config, chosen["mode"], benchmarks.Opening(**data))
    return config
