"""Full fine-tuning on fine-grained classes, as VPT's authors compare with: ViT-B/16, ImageNet-21k.

    python main.py --config configs/finetune_fgvc.py:cub --workdir runs/finetune_fgvc_cub

Jia et al. 2022 (arXiv 2203.12119), tables 1 and 6: AdamW, 100 epochs, 10 of warm-up, batch 128,
random crop and flip. Accuracy in percent, and its tolerance (spread was not published):

              full   adapter (published with layers that could not learn)
    cub       87.3      87.1   ± 0.7
    flowers   98.8      98.5   ± 0.5
    dogs      89.4      89.8   ± 0.7
    cars      84.5      68.6   ± 1.5
    nabirds   82.7      84.3   ± 0.7
    mean      88.54     85.66            bias 88.41, partial-1 82.63

Splits and choices as in configs/vpt_fgvc.py. The learning rates below are those of the published
configuration files (0.0375 for cars, 0.00375 else, 0.001 for flowers, at batch 384), which are not
the tuned ones. Not measured here: it needs a GPU and the weights.
"""

from ml_collections import ConfigDict

from configs import finetune_vtab, vpt_fgvc
from vpjax.runs import defaults

GRID = finetune_vtab.GRID


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a data set: "cub", "task=cub" or "task=cub,data=fgvc"."""
    chosen = defaults.choices(label, task="cub", data="", backbone="vit")
    config, task = vpt_fgvc.start(chosen, "finetune.Full")
    config.train.batch_size = 128
    lr = {"cars": 0.0375, "flowers": 0.001}.get(task, 0.00375)
    config.optim.update(
        name="adamw", lr=lr, lr_base_batch_size=384, weight_decay=0.01, warmup_epochs=10.0
    )
    return config
