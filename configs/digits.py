"""The first run: no network, no GPU, no data to fetch. A minute on two CPU cores.

    python main.py                                      all four methods, three seeds each
    python main.py --config configs/digits.py:vpt_deep  one method, one seed

A small ViT, pretrained on the handwritten digits 0-4 (its weights are in the repository), is
adapted to the digits 5-9, which it has never seen, in four ways, three seeds each: a linear probe,
shallow and deep prompts, full fine-tuning. Measured here: see README.md.
The test set has 167 images, so one image is 0.6 points; a linear model on raw pixels does well on
these digits too. It shows the mechanism, not a record.
"""

from ml_collections import ConfigDict

from vpjax.core.errors import unknown
from vpjax.runs import defaults
from vpjax.runs.config import merged

NOTE = """\
This is a toy: 16 patches of 8x8 digits, 77 thousand parameters, 366 test
images (one is 0.3 points)."""


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of `python main.py`, or of the one run `label` of it.

    Raises: UserError if there is no run of that label.
    """
    config = defaults.get_config()
    config.backbone = backbone()
    config.backbone.weights = "digits_vit"
    config.method.update(num_tokens=8)

    config.data.name = "digits/high"
    config.data.train = "train[:400]"
    config.data.val = "train[400:530]"
    config.data.test = "train[530:]+test"  # more than "test" alone: 366 images, not 167
    config.data.preset = "digits_crop"
    config.data.eval_batch_size = 64

    config.train.batch_size = 32
    config.train.steps = 400
    config.train.eval_every = 8.0
    config.optim.update(
        name="adamw", lr=3e-2, lr_base_batch_size=0, weight_decay=1e-4, warmup_epochs=2.0
    )

    config.study.compare = ConfigDict(
        {
            "linear": {"method": {"name": "finetune.Linear"}, "optim": {"lr": 0.1}},
            "vpt_shallow": {"method": {"name": "vpt.VPT", "deep": False}, "optim": {"lr": 5e-2}},
            "vpt_deep": {"method": {"name": "vpt.VPT", "deep": True}},
            "full": {"method": {"name": "finetune.Full"}, "optim": {"lr": 1e-3}},
        }
    )
    config.study.seeds = (0, 1, 2)
    config.draw = False  # drawing takes longer than such a run; `plot` does it afterwards
    if not label:
        return config
    if label not in config.study.compare:
        raise unknown("run of configs/digits.py", label, config.study.compare)
    return merged(defaults.single_run(config), config.study.compare[label])


def note(config: ConfigDict) -> str:
    """Returns what the table does and does not show; "" with other data or another backbone."""
    if (config.data.name, config.backbone.weights) != ("digits/high", "digits_vit"):
        return ""
    return NOTE


def backbone() -> ConfigDict:
    """Returns a ViT of 0.1 M parameters for 8x8 images."""
    return defaults.backbone(
        "vit.ViT",
        variant="Ti/2",
        image_size=8,
        dim=48,
        mlp_dim=96,
        heads=4,
        depth=4,
        dropout=0.0,
        pos_std=0.3,
    )
