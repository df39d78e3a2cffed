"""Three networks on three data sets, without MS-VP's prompts and with them: 18 cells.

    python main.py ablate --config configs/ablate_backbone.py --workdir runs/backbones
    python main.py ablate --config configs/ablate_backbone.py:data=mnist       6 cells
    python main.py ablate --config configs/ablate_backbone.py:data=digits,narrow=8

data     a data set of configs/msvp.py, whose training this is, with three seeds; by default MNIST,
         Fashion-MNIST and CIFAR-10
narrow   divides every width of the networks: 8 makes a trial of minutes on a CPU

A cell is <data>_<network>_baseline or <data>_<network>_msvp: all sizes of prompts, added.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import msvp
from vpjax.core.errors import UserError
from vpjax.runs import defaults
from vpjax.runs.config import NOT_OPTIONS

ALL = ("mnist", "fashion_mnist", "cifar10")
SEEDS = (42, 43, 44)


def get_config(label: str = "") -> ConfigDict:
    """Returns the study. Raises: UserError for a choice that does not exist."""
    chosen = defaults.choices(label, data="", narrow="1")
    datasets = [chosen["data"]] if chosen["data"] else ALL
    config = start("backbone", f"data={datasets[0]},narrow={chosen['narrow']}", model="cnn")
    config.study.compare, cells = ConfigDict(), []
    for data in datasets:
        for model in ("cnn", "resnet18", "vit"):
            for kind, prompts in (("baseline", "no"), ("msvp", "yes")):
                one = msvp.get_config(f"data={data},model={model},prompts={prompts}")
                narrower(one, chosen["narrow"])
                cells.append(f"{data}_{model}_{kind}")
                config.study.compare[cells[-1]] = {
                    "data": {k: one.data[k] for k in ("name", "preset")},
                    "backbone": {k: v for k, v in options(one.backbone) if k not in NOT_OPTIONS},
                    "method": dict(options(one.method)),
                }
    config.study.cells = tuple(cells)
    return config


def start(study: str, label: str, **choices: str) -> ConfigDict:
    """Returns the config of a study without its cells; `choices` are its own of configs/msvp.py.

    Raises: UserError for a choice that does not exist.
    """
    chosen = defaults.choices(label, data="cifar10", **choices, narrow="1")
    narrow = chosen.pop("narrow")
    config = msvp.get_config(",".join(f"{k}={v}" for k, v in chosen.items()))
    narrower(config, narrow)
    config.study.name, config.study.seeds, config.seed = study, SEEDS, SEEDS[0]
    return config


def narrower(config: ConfigDict, by: str) -> None:
    """Divides the widths of a network. Raises: UserError unless 1, 2, 4 or 8."""
    if by not in ("1", "2", "4", "8"):
        raise UserError(f"narrow={by}: give 1, 2, 4 or 8")
    body, by = config.backbone, int(by)
    if by == 1:
        return
    if body.name == "cnn.CNN":
        body.width //= by
    elif body.name == "resnet.ResNet":
        body.widths = tuple(w // by for w in body.widths)
    else:
        body.dim, body.mlp_dim = 192 // by, 768 // by


def options(section: ConfigDict) -> list[tuple[str, Any]]:
    """Returns the options of a section that are set."""
    return [(k, v) for k, v in section.items() if v is not None]
