"""Linear probe on fine-grained classes, as VPT's authors compare with: ViT-B/16, ImageNet-21k.

    python main.py --config configs/linear_fgvc.py:cub --workdir runs/linear_fgvc_cub

Jia et al. 2022 (arXiv 2203.12119), tables 1 and 6: SGD, 100 epochs, 10 of warm-up, batch 2048,
random crop and flip. Accuracy in percent, and its tolerance (spread was not published):

    cub 85.3 ± 0.5   flowers 97.9 ± 0.5   dogs 86.2 ± 0.5   cars 51.3 ± 1.0
    nabirds 75.9   mean 79.32   MLP-3 79.80   Sidetune 78.35

Splits and choices as in configs/vpt_fgvc.py. Learning rate and weight decay were tuned for each
data set and not published; the middle of the searched range stands here. Not measured here: it
needs a GPU and the weights.
"""

from ml_collections import ConfigDict

from configs import vpt_fgvc
from vpjax.runs import defaults

GRID = {key: values for key, values in vpt_fgvc.GRID.items() if key.startswith("optim.")}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set: "cub", "task=cub" or "task=cub,data=fgvc"."""
    chosen = defaults.choices(label, task="cub", data="", backbone="vit")
    config, _ = vpt_fgvc.start(chosen, "finetune.Linear")
    config.train.batch_size = 2048
    config.data.eval_batch_size = 256
    config.optim.update(
        name="sgd", lr=1.0, lr_base_batch_size=256, weight_decay=0.001, warmup_epochs=10.0
    )
    return config
