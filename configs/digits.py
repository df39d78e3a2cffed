"""The first run: no network, no GPU, no data to fetch. A minute and a half on two CPU cores.

    python main.py                                      all four methods, three seeds each
    python main.py --config configs/digits.py:vpt_deep  one method, one seed

A small ViT, pretrained on the handwritten digits 0-4 (its weights are in the repository), is
adapted to the digits 5-9, which it has never seen, in four ways, three seeds each: a linear probe,
shallow and deep prompts, full fine-tuning. 400 images train, 130 choose, 366 test. Measured here:
see README.md; `NOTE`, which the screen shows too, says what it does not show. A linear model on raw
pixels does well on these digits too. Rates of prompts are the best on val of 0.01, 0.03 and 0.1,
with three seeds each; those of `linear` and `full` are ones that were known to work.
"""

from ml_collections import ConfigDict

from vpjax.core.errors import unknown
from vpjax.runs import defaults
from vpjax.runs.config import merged

NOTE = """\
This is a toy: 16 patches of 8x8 digits, 77 thousand parameters, 366 test
images (one is 0.3 points). It shows that prompts gain over a linear probe by
training little. It does not show which prompts are better: three seeds are too
few, and over ten, shallow and deep are level (86.8 and 86.1 %; linear 82.5).
On real ViTs deep is ahead: 69.4 to 64.9 % over the 19 tasks of VTAB-1k
(arXiv 2203.12119)."""


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
    config.data.preset = "digits"
    config.data.eval_batch_size = 64

    config.train.batch_size = 32
    config.train.steps = 250
    config.train.eval_every = 5.0
    config.optim.update(
        name="adamw", lr=3e-2, lr_base_batch_size=0, weight_decay=1e-4, warmup_epochs=2.0
    )

    config.study.compare = ConfigDict(
        {
            "linear": {"method": {"name": "finetune.Linear"}, "optim": {"lr": 0.1}},
            "vpt_shallow": {"method": {"name": "vpt.VPT", "deep": False}, "optim": {"lr": 0.1}},
            "vpt_deep": {"method": {"name": "vpt.VPT", "deep": True}},
            "full": {"method": {"name": "finetune.Full"}, "optim": {"lr": 1e-3}},
        }
    )
    config.study.seeds = (0, 1, 2)
    config.draw = False  # drawing takes longer than such a run; `plot` does it afterwards
    return one_run(config, label, "configs/digits.py")


def one_run(config: ConfigDict, label: str, file: str) -> ConfigDict:
    """Returns the config of one run of a comparison; the comparison for an empty label.

    Raises: UserError if there is no run of that label in the recipe `file`.
    """
    if not label:
        return config
    if label not in config.study.compare:
        raise unknown(f"run of {file}", label, config.study.compare)
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
