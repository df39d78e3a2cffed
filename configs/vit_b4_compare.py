"""ViT-B/4 on CIFAR-10: prompts (P), fine-tuning (F) and both (P+F), side by side.

    python main.py --config configs/vit_b4_compare.py --workdir runs/vit_b4

Each run is that of configs/vpt_cifar.py, which says what they are, where the weights come from and
what the original reports. The folder then holds comparison.md (parameters that train and their
share, best and last test accuracy, seconds) and comparison_curves.png, training and test accuracy
by epoch. The test split is evaluated after every epoch for that picture and chooses nothing.

The original reports, for 5 epochs on a GPU it does not name, 5m20s for P, 4m22s for F and 6m50s for
P+F, and accuracy of P alone. Not measured here: it needs a GPU, the data and the weights.
"""

from ml_collections import ConfigDict

from configs import vpt_cifar

# The original's colours, in shades that the colour-blind tell apart (Paul Tol's "vibrant").
RUNS = {"P": ("P", "#EE7733"), "F": ("F", "#CC3311"), "P+F": ("PF", "#0077BB")}


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = vpt_cifar.get_config()
    for label, (strategy, colour) in RUNS.items():
        name, _ = vpt_cifar.STRATEGIES[strategy]  # other options go on from P, as the user set them
        config.study.compare[label] = {"method": {"name": name}}
        config.study.colours[label] = colour
    return config
