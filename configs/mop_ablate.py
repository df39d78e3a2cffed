"""What the parts of MoP-CLIP are worth: each left out or changed in turn.

    python main.py ablate --config configs/mop_ablate.py --config.backbone.weights=clip-b16
    python main.py ablate --config configs/mop_ablate.py:subset=wrasse,seeds=3

version, subset    as in configs/mop_inat.py, whose training this is; the published code ablates on
                   the wrasses, five species
seeds              how many

All runs read features that are computed once. Not measured here: it needs the photos.
"""

from ml_collections import ConfigDict

from configs import mop_inat
from vpjax.core.errors import UserError
from vpjax.runs import defaults

# cell: changes to the recipe
CELLS = {
    "all": {"method": {}},
    "K1": {"method": {"num_prompts": 1}},
    "K4": {"method": {"num_prompts": 4}},
    "K8": {"method": {"num_prompts": 8}},
    "zero_init": {"method": {"init": "zero"}},
    "no_mixture": {"method": {"lambda_mixture": 0.0}},
    "no_regulariser": {"method": {"offset_reg_weight": 0.0}},
    "strong_regulariser": {"method": {"offset_reg_weight": 0.01}, "optim": {"lr": 1e-4}},
    "fixed_tau": {"method": {"anneal": False}},
    "hard": {"method": {"assignment": "hard"}},
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the study. Raises: UserError for a choice that does not exist."""
    chosen = defaults.choices(label, version="2021", subset="wrasse", seeds="1")
    seeds = chosen.pop("seeds")
    if not seeds.isdigit() or not int(seeds):
        raise UserError(f"seeds={seeds}: give a number above 0")
    if chosen["version"] == "2018":
        chosen["subset"] = "all"
    config = mop_inat.get_config(",".join(f"{k}={v}" for k, v in chosen.items()))
    config.features, config.study.name = "cached", "mop"
    config.study.seeds = tuple(range(int(seeds)))
    config.study.compare, config.study.cells = ConfigDict(CELLS), tuple(CELLS)
    return config
