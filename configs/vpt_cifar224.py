"""VPT on CIFAR-10 with an ImageNet-21k ViT-B/16 at 224 pixels.

    python main.py --config configs/vpt_cifar224.py --workdir runs/vpt_cifar224

Jia et al. 2022 (arXiv 2203.12119), VPT-deep: SGD, 100 epochs, 10 of warm-up, prompt dropout 0.1.
Full CIFAR-10 is not in the paper. Not measured here: it needs a GPU and the weights.
"""

from ml_collections import ConfigDict

from vpjax.runs import defaults


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = defaults.get_config()
    config.method.update(num_tokens=10, deep=True, dropout=0.1)
    config.dtype = "bfloat16"
    return config
