"""Prompts of CLIP from 16 photos a class, by the recipes of CoOp, CoCoOp, MaPLe and PromptSRC.

    python main.py --config configs/clip_prompts.py:maple --config.backbone.weights=clip-b16 \\
        --config.data.name=zhou:data/caltech-101/split_zhou_Caltech101.json --workdir runs/caltech
    python main.py eval --workdir runs/caltech --config.data.classes=new
    python main.py --config configs/clip_prompts.py:method=coop,protocol=all,shots=4 ...

`clip-b16` is a folder with both towers of CLIP ViT-B/16 and its tokenizer, see docs/clip.md; the
splits are CoOp's files split_zhou_*.json. Methods are coop, cocoop, vpt, text (IVLP with prompts of
texts only), ivlp, maple and promptsrc, with the published settings: SGD, a first epoch at 1e-5, a
cosine by epoch, random crops and flips, float32.

protocol=base (the default) trains on the first half of the classes; `eval` with data.classes=new
tests what was learnt on the others, among themselves. protocol=all trains on all classes, CoOp as
in its few-shot table: 16 random tokens, epochs by the number of shots. protocol=cross has the
settings of training on ImageNet for other data sets.

Published (readme tables of MaPLe and PromptSRC; percent on test, last epoch, means over 11 data
sets and seeds 1, 2, 3; HM is the harmonic mean of the two means):

             base    new     HM     epochs
    zero-shot 69.34  74.22  71.70
    coop      82.69  63.22  71.66   200
    cocoop    80.47  71.69  75.83   10
    vpt       80.24  73.43  76.68   5
    text      81.72  73.81  77.56   5
    ivlp      82.15  74.07  77.90   5
    maple     82.28  75.14  78.55   5
    promptsrc 84.26  76.10  79.97   20

No spread is published; a mean of 11 that is within 0.5 agrees, as a single seed on a single set
varies by several points. Those runs were in half precision; not measured here: it needs the photos
and the weights.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from vpjax.core.errors import UserError, unknown
from vpjax.runs import defaults

WORDS = "a photo of a"
PROTOCOLS = ("base", "all", "cross")
FEW_SHOT_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}  # CoOp on all classes


class Recipe(NamedTuple):
    """The published setting of a method: its class and options, and how it trains."""

    name: str
    options: dict
    lr: float
    epochs: int
    batch_size: int


RECIPES = {
    "coop": Recipe("coop.CoOp", {"init_words": WORDS}, 0.002, 200, 32),
    "cocoop": Recipe("cocoop.CoCoOp", {"init_words": WORDS}, 0.002, 10, 1),
    "vpt": Recipe("vpt_clip.VPTCLIP", {}, 0.0025, 5, 4),
    "text": Recipe(
        "ivlp.IVLP", {"text_tokens": 4, "vision_tokens": 0, "vision_depth": 0}, 0.0025, 5, 4
    ),
    "ivlp": Recipe("ivlp.IVLP", {}, 0.0035, 5, 4),
    "maple": Recipe("maple.MaPLe", {}, 0.0035, 5, 4),
    "promptsrc": Recipe("promptsrc.PromptSRC", {}, 0.0025, 20, 4),
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe; choices are `method`, `protocol` and `shots`.

    Raises: UserError for a choice that does not exist.
    """
    chosen = defaults.choices(label, method="maple", protocol="base", shots="16")
    method, protocol = chosen["method"], chosen["protocol"]
    if method not in RECIPES:
        raise unknown("method of configs/clip_prompts.py", method, RECIPES)
    if protocol not in PROTOCOLS:
        raise unknown("protocol of configs/clip_prompts.py", protocol, PROTOCOLS)
    if not chosen["shots"].isdigit():
        raise UserError(f"shots={chosen['shots']!r}: give a number of photos a class")
    recipe, shots = RECIPES[method], int(chosen["shots"])
    config = defaults.get_config()
    config.backbone = defaults.backbone("clip.CLIP")
    config.method = defaults.section("methods", recipe.name, **recipe.options)
    config.data.update(name="zhou:data/caltech-101/split_zhou_Caltech101.json", val="", shots=shots)
    config.data.update(train="train", test="test", eval_batch_size=100, preset="clip")
    config.data.augment = "random_resized_crop=0.08/1,flip"
    config.data.classes = "base" if protocol == "base" else ""
    if method == "vpt":
        config.text.templates = f"{WORDS} {{name}}."

    config.train.update(batch_size=recipe.batch_size, epochs=float(recipe.epochs))
    config.train.update(remainder="drop", eval_every=float(recipe.epochs))
    config.optim.update(name="sgd", lr=recipe.lr, lr_base_batch_size=0, momentum=0.9)
    config.optim.update(weight_decay=5e-4, no_decay="")
    config.optim.update(schedule="cosine", schedule_by_epoch=True, cosine_over_run=True)
    config.optim.update(warmup_epochs=1.0, warmup_lr=1e-5)
    if method == "cocoop":
        config.data.eval_batch_size = 4  # every image has texts of its own
    if method == "promptsrc":
        config.optim.update(average_mean=15.0, average_std=1.0)
    if protocol == "all" and method == "coop":
        config.method.update(init_words="", num_tokens=16)
        config.train.epochs = float(FEW_SHOT_EPOCHS.get(shots, 200))
    if protocol == "all" and method == "promptsrc":
        config.train.epochs = 50.0
        config.optim.update(average_mean=30.0, average_std=30.0)
    if protocol == "cross" and method == "maple":
        config.optim.lr, config.train.epochs = 0.0026, 2.0
    if protocol == "cross" and method == "promptsrc":
        config.method.update(text_depth=3, vision_depth=3)
        config.optim.update(average_mean=6.0, average_std=10.0)
    config.train.eval_every = config.train.epochs
    return config
