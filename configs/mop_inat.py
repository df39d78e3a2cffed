"""MoP-CLIP on iNaturalist: 32 sub-prompts a species on a frozen CLIP ViT-B/16.

    python main.py --config configs/mop_inat.py --config.backbone.weights=clip-b16
    python main.py --config configs/mop_inat.py:version=2018 --config.backbone.weights=clip-b16
    python main.py --config configs/mop_inat.py:subset=wrasse --config.backbone.weights=clip-b16

`clip-b16` is a folder with CLIP's weights and tokenizer, see docs/clip.md; photos and annotations
lie in data/iNat2021 or data/iNat2018 (--config.data.dir), see docs/data.md. Subsets are those of
vpjax/data/subset.py, or any --config.data.classes.

Settings of the published code: Adam, 5e-4, 30 epochs of batches of 16, 2,000 steps of warm-up, the
best epoch by validation accuracy. It publishes no table of results; its one recorded run (2018, an
earlier loss) had 24.80 % after two epochs. Not measured here: it needs the photos.

Photos go through CLIP once; their features are kept and trained on, so larger batches cost nearly
nothing up to 1,000: scale lr and warm-up with them. Classes are split over all devices.
"""

from ml_collections import ConfigDict

from vpjax.core.errors import UserError, unknown
from vpjax.runs import defaults

VERSIONS = ("2021", "2018")


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe; choices are `version` and `subset`.

    Raises: UserError for a choice that does not exist.
    """
    chosen = defaults.choices(label, version="2021", subset="all")
    if chosen["version"] not in VERSIONS:
        raise unknown("version of iNaturalist", chosen["version"], VERSIONS)
    if chosen["version"] == "2018" and chosen["subset"] != "all":
        raise UserError("named subsets are of iNaturalist 2021; give --config.data.classes instead")
    config = defaults.get_config()
    config.backbone = defaults.backbone("clip.CLIP")
    config.method = defaults.section("methods", "mop.MoP")
    name = f"inat{chosen['version']}"
    config.data.update(name=name, train="train", val="val", test="", eval_batch_size=32)
    config.data.dir = f"data/iNat{chosen['version']}"
    if chosen["subset"] != "all":
        config.data.classes = chosen["subset"]

    config.train.update(batch_size=16, epochs=30.0, remainder="keep", select="best")
    config.optim.update(name="adam", lr=5e-4, lr_base_batch_size=0, weight_decay=0.0, no_decay="")
    config.optim.warmup_steps = 2000
    config.mesh.update(data=1, model=-1)  # offsets of 655 MB are split, not repeated
    return config
