"""MS-VP's prompts added to the image, mixed with it by a convolution, or added through a gate.

    python main.py ablate --config configs/ablate_fusion.py --workdir runs/fusion
    python main.py ablate --config configs/ablate_fusion.py:data=mnist,model=cnn
    python main.py ablate --config configs/ablate_fusion.py:data=digits,model=cnn,narrow=8

data, model   as in configs/msvp.py, whose training this is, with three seeds
scales        full, global+mid, global
narrow        divides every width of the network: 8 makes a trial of a minute on a CPU
"""

from ml_collections import ConfigDict

from configs.ablate_backbone import start
from vpjax.methods.msvp import FUSIONS


def get_config(label: str = "") -> ConfigDict:
    """Returns the study. Raises: UserError for a choice that does not exist."""
    config = start("fusion", label, model="resnet18", scales="full")
    config.study.compare = ConfigDict({f: {"method": {"fusion_type": f}} for f in FUSIONS})
    config.study.cells = tuple(FUSIONS)
    return config
