"""How many sub-prompts a class: MoP-CLIP with K = 1 to 64, by validation accuracy.

    python main.py --config configs/mop_k_sweep.py --config.backbone.weights=clip-b16
    python main.py --config configs/mop_k_sweep.py:k=1+4+16,subset=wrasse

version, subset    as in configs/mop_inat.py, whose training this is
k                  the numbers, with + between them

Each K is a run of its own, on features that are computed once. The folder then holds comparison.md,
.csv and .json, comparison.png (accuracy against what is learnt, which grows with K) and
comparison_curves.png. Notes of the published code say that K above 1 does not help on subsets of
five classes; it has no table. Not measured here: it needs the photos.
"""

from ml_collections import ConfigDict

from configs import mop_inat
from vpjax.core.errors import UserError
from vpjax.runs import defaults

KS = "1+2+4+8+16+32+64"


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe. Raises: UserError for a choice that does not exist."""
    chosen = defaults.choices(label, k=KS, version="2021", subset="all")
    numbers = chosen.pop("k").split("+")
    if not all(n.isdigit() and int(n) for n in numbers):
        raise UserError(f"k={'+'.join(numbers)}: give numbers with + between them, such as k={KS}")
    config = mop_inat.get_config(",".join(f"{k}={v}" for k, v in chosen.items()))
    config.features = "cached"
    config.study.compare = ConfigDict(
        {f"K{n}": {"method": {"num_prompts": int(n)}} for n in numbers}
    )
    return config
