"""Prompt tuning of a ViT-B/4 on CIFAR-10, its images left at 32 pixels.

    python main.py --config configs/vpt_cifar.py --workdir runs/vpt_cifar
    python main.py --config configs/vpt_cifar.py:strategy=PF --workdir runs/vpt_cifar_full

A ViT-B/16 made for 224 pixels is carried to patches of 4 pixels and a grid of 8 x 8; 50 prompts
enter every layer. strategy=

    P    all but the 12 layers train: prompts, embeddings, last norm, head; 558,346 numbers
    F    no prompts, everything trains; 85,152,010
    PF   prompts, everything trains; 85,612,810
    VPT  prompts and head alone, as in VPT's paper (arXiv 2203.12119); 468,490

Adam with L2, 5 epochs, cosine by epochs to 1e-5, batch 128, float32. configs/vit_b4_compare.py runs
P, F and PF and draws their curves; docs/methods/vit_b4.md has the rest.

data.val is the test split: its curve after every epoch is what the original shows. Nothing is
chosen by it (train.select is "last"), and the result is that of the last epoch; to tune anything,
set data.train="train[:90%]" and data.val="train[90%:]".

Weights: AugReg ImageNet-21k, fine-tuned on ImageNet-1k. The original starts from timm's
augreg2_in21k_ft_in1k, the same two stages but another second one; its file loads too:
--config.backbone.weights=FILE. vit_b16_augreg_in21k and vit_b16_in21k lack the second stage.

The original's README (2024) says 97.83 % for P at epoch 5, of training or testing it does not say.
Not measured here: it needs a GPU, the data and the weights.
"""

from typing import Any

from ml_collections import ConfigDict

from vpjax.core.errors import unknown
from vpjax.runs import defaults

DEEP = {"num_tokens": 50}
STRATEGIES = {
    "P": ("vit_b4.Prompts", DEEP),
    "F": ("finetune.Full", {}),
    "PF": ("vit_b4.PromptsFull", DEEP),
    "VPT": ("vpt.VPT", DEEP),
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a strategy.

    Raises: UserError if there is no such strategy.
    """
    chosen = defaults.choices(label, strategy="P")
    config = defaults.get_config()
    config.backbone = defaults.backbone(
        "vit.ViT",
        weights="vit_b16_augreg_in21k_ft_in1k",
        resample="bicubic",
        variant="B/4",
        image_size=32,
        dropout=0.0,
    )
    config.method = defaults.section("methods", **method(chosen["strategy"]))
    config.data.update(train="train", val="test", test="test", preset="vitb4_cifar")
    config.data.batch_loss = True
    config.train.update(batch_size=128, remainder="keep", epochs=5.0, select="last")
    config.optim.update(name="adam", lr=1e-3, lr_base_batch_size=0, weight_decay=5e-5, no_decay="")
    config.optim.update(schedule="cosine", schedule_by_epoch=True, warmup_epochs=0.0, min_lr=1e-5)
    return config


def method(strategy: str) -> dict[str, Any]:
    """Returns the name and the options of a strategy's method.

    Raises: UserError if there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy of configs/vpt_cifar.py", strategy, STRATEGIES)
    name, options = STRATEGIES[strategy]
    return {"name": name, "head_init": "normal_0.02", **options}
