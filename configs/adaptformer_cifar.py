"""AdaptFormer on CIFAR-100 by its paper's recipe: MAE's ViT-B/16, 224 pixels.

    python main.py --config configs/adaptformer_cifar.py --workdir runs/adaptformer

Chen et al. 2022 (arXiv 2205.13535): bottlenecks 64 wide beside every MLP; SGD with momentum 0.9,
rate 0.1 per 256 images, batch 1024 (8 devices of 128), no weight decay, 100 epochs, 20 of warm-up,
a cosine to 0; the head starts at N(0, 0.01^2) behind a BatchNorm without scale and bias, on the
mean of the patches; no stochastic depth. Reported there is the best test epoch. Its number is not
among those that were read for this repository, so none is expected here; tables of VTAB-1k mean the
common recipe, configs/peft_vtab.py. Not measured here: it needs a GPU and the weights.

classes    100 (the default) or 10
backbone   mae (the default), or any of configs/vpt_vtab.py
"""

from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.runs import defaults
from vpjax.runs.published import use_backbone


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe.

    Raises: UserError for a choice that does not exist.
    """
    chosen = defaults.choices(label, classes="100", backbone="mae")
    if chosen["classes"] not in ("10", "100"):
        raise UserError(f"classes is {chosen['classes']}; give 10 or 100")
    config = defaults.get_config()
    config.method = defaults.section("methods", "bottleneck.AdaptFormer")
    config.method.update(head_init="normal_0.01", head_norm=True)
    config.data.update(name=f"cifar{chosen['classes']}", train="train", val="", test="test")
    config.data.preset = "imagenet,random_resized_crop=0.08/1,flip"
    config.train.update(epochs=100.0, eval_every=1.0, batch_size=1024)
    config.optim.update(name="sgd", lr=0.1, lr_base_batch_size=256, weight_decay=0.0)
    config.optim.update(warmup_epochs=20.0)
    config.dtype = "bfloat16"
    use_backbone(config, chosen["backbone"])
    config.backbone.drop_path = 0.0
    return config
