"""Base to new: trained on the first half of the classes, tested on both halves, on a frozen CLIP.

    python main.py ablate --config configs/base_to_new.py:data=eurosat --workdir runs/halves ...
    python main.py ablate --config configs/base_to_new.py:data=all ...

    data     as in configs/few_shot.py, whose settings these are
    shots    images of each base class, 16
    ...      --config.backbone.weights=clip-b16, a folder with CLIP's weights and tokenizer

docs/few_shot.md has the protocol: seeds 1, 2, 3; base and new each among their own classes; H of
several data sets is that of the averages over them. Methods are those that can be told of other
classes; add one as a cell, `config.study.compare["mine"] = {"method": {"name": ...}, ...}`.

`PUBLISHED` (README tables of the MaPLe and PromptSRC repositories): ViT-B/16, 16 shots, last epoch,
mean of three seeds and of 11 data sets; tolerance 1 point, of zero-shot 0.3 (nothing is drawn). It
is of all 11 data sets together. Not measured here: it needs the photos, weights and a GPU.
"""

from ml_collections import ConfigDict

from configs import few_shot
from vpjax.runs import defaults

# base, new, H; epochs
PUBLISHED = {
    "zero_shot": (69.34, 74.22, 71.70, 0),
    "coop": (82.69, 63.22, 71.66, 200),
    "cocoop": (80.47, 71.69, 75.83, 10),
    "vpt": (80.24, 73.43, 76.68, 5),
    "text_deep": (81.72, 73.81, 77.56, 5),
    "ivlp_2_2": (82.15, 74.07, 77.90, 5),
    "ivlp_4_4": (84.21, 71.79, 77.51, 20),
    "maple": (82.28, 75.14, 78.55, 5),
    "promptsrc": (84.26, 76.10, 79.97, 20),
}
CELLS = ("zero_shot", "clip_adapter")


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe; choices are `data` and `shots`.

    Raises: UserError for a choice that does not exist.
    """
    chosen = defaults.choices(label, data="eurosat", shots="16")
    config = few_shot.base(chosen["data"], few_shot.images(chosen["shots"]))
    config.study.name = "base_to_new"
    config.study.compare = ConfigDict({name: few_shot.METHODS[name] for name in CELLS})
    config.study.cells = CELLS
    return config
