"""Memory-optimised VPT on CUB-200: 100 prompts, fused attention, rematerialised layers.

    python main.py --config configs/vpt_cub.py --workdir runs/vpt_cub
    python main.py --config configs/vpt_cub.py:backbone=sup_vitl16,pixels=336 --workdir runs/cub_l

The setting of the memory-saving fork of VPT (Efficient-VPT: ViT-B/16, CUB, 224 pixels, 100 shallow
prompts, flash attention on), whose own checkpointing leaves the prompts out; see docs/memory.md for
what each choice saves. SGD, batch 64, lr 0.5, no weight decay, 100 epochs, 10 of warm-up, mixed
precision. Backbones are sup_vitb16 and sup_vitl16, pixels 112, 224, 336. --config.remat=none trades
memory for time, --config.method.deep=True makes prompts deep.

The fork publishes no accuracy. Jia et al. 2022 (arXiv 2203.12119) give 86.7 % for VPT-shallow and
88.5 % for VPT-deep on CUB with ViT-B/16; tolerance 0.7. Not measured here: it needs a GPU and the
weights.
"""

from ml_collections import ConfigDict

from configs import vpt_fgvc
from vpjax.core.errors import UserError, unknown
from vpjax.runs import defaults

BACKBONES = {"sup_vitb16": ("B/16", "vit_b16_in21k"), "sup_vitl16": ("L/16", "vit_l16_in21k")}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a backbone and an image size: "backbone=sup_vitl16,pixels=336".

    Raises: UserError for another backbone, or a size that is no number.
    """
    chosen = defaults.choices(label, backbone="sup_vitb16", pixels="224")
    name, pixels = chosen["backbone"], chosen["pixels"]
    if name not in BACKBONES:
        raise unknown("backbone of configs/vpt_cub.py", name, BACKBONES)
    if not pixels.isdigit():
        raise UserError(f"image size {pixels!r} is no number of pixels; give 112, 224 or 336")
    config = defaults.get_config()
    vpt_fgvc.fgvc(config, "cub")
    variant, weights = BACKBONES[name]
    config.backbone.update(variant=variant, weights=weights, image_size=int(pixels))
    config.method.update(num_tokens=100, deep=False, dropout=0.1)
    config.train.batch_size = 64
    config.optim.update(
        name="sgd", lr=0.5, lr_base_batch_size=0, weight_decay=0.0, warmup_epochs=10.0
    )
    config.attention = "auto"
    config.remat = "full"
    return config
