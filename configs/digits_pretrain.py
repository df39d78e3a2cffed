"""Pre-trains the small ViT of the first run on the digits 0-4, and writes its weights.

    python main.py --config configs/digits_pretrain.py --workdir runs/digits_pretrain
    python main.py export --workdir runs/digits_pretrain vpjax/weights/assets/digits_vit.npz

About a minute on two CPU cores. Random crops keep its features from shrinking to five points, one
a class. The seed was not chosen: one backbone was trained with this recipe.
"""

from ml_collections import ConfigDict

from configs import digits
from vpjax.runs import defaults


def get_config() -> ConfigDict:
    """Returns the recipe that made vpjax/weights/assets/digits_vit.npz."""
    config = defaults.get_config()
    config.backbone = digits.backbone()
    config.method = defaults.section("methods", "finetune.Full")

    config.data.name = "digits/low"
    config.data.train = "train"
    config.data.val = ""
    config.data.preset = "digits"
    config.data.augment = "random_resized_crop=0.5/1"
    config.data.eval_batch_size = 64

    config.train.batch_size = 32
    config.train.steps = 1000
    config.optim.update(
        name="adamw",
        lr=3e-3,
        lr_base_batch_size=0,
        weight_decay=1e-2,
        warmup_epochs=2.5,
        clip_norm=1.0,
    )
    config.optim.no_decay = r".*/(bias|scale)|.*/(cls_token|pos_embed)"
    config.seed = 1
    return config
