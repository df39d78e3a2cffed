"""E2VPT pruned and rewound on the digits: offline, minutes on two CPU cores.

    python main.py prune --config configs/digits_prune.py --workdir runs/prune

Data and backbone are those of configs/digits.py. Eight prompts of eight pieces a layer train with
masks; then a quarter, half and three quarters of the prompts, and a quarter and half of the pieces,
are pruned by their importance, and each pair is trained anew. The paper's percentages are 10 to 90
in steps of 10, up to 81 pairs, with at least 1 prompt and 4 pieces left: those of
`config.study.prune` by default.
"""

from ml_collections import ConfigDict

from configs import digits
from vpjax.runs import defaults


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = digits.get_config()
    config.study = defaults.study()
    options = {"num_tokens": 8, "num_kv_tokens": 5, "pieces": 8}
    config.method = defaults.section("methods", "e2vpt.E2VPT", **options)
    config.study.prune.update(percents=(25, 50, 75), min_pieces=4)
    config.study.seeds = (0, 1, 2)
    return config
