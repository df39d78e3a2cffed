"""MS-VP with 1, 2 and 3 sizes of prompts: does more of them help, and what do they cost?

    python main.py ablate --config configs/ablate_prompt_scale.py --workdir runs/scales
    python main.py ablate --config configs/ablate_prompt_scale.py:data=mnist,model=cnn
    python main.py ablate --config configs/ablate_prompt_scale.py:data=digits,narrow=8

data, model   as in configs/msvp.py, whose training this is, with three seeds
fusion        add, concat, gated
narrow        divides every width of the network: 8 makes a trial of a minute on a CPU
"""

from ml_collections import ConfigDict

from configs.ablate_backbone import start
from vpjax.methods.msvp import SCALES


def get_config(label: str = "") -> ConfigDict:
    """Returns the study. Raises: UserError for a choice that does not exist."""
    config = start("prompt_scale", label, model="resnet18", fusion="add")
    config.study.compare = ConfigDict({s: {"method": {"prompt_scales": s}} for s in SCALES})
    config.study.cells = tuple(SCALES)
    return config
