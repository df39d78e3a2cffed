"""Full fine-tuning on a task of VTAB-1k, as VPT's authors compare with: ViT-B/16, ImageNet-21k.

    python main.py --config configs/finetune_vtab.py:svhn --workdir runs/finetune_vtab_svhn

Jia et al. 2022 (arXiv 2203.12119), tables 1 and 7: AdamW, 100 epochs, 10 of warm-up, batch 128,
trained on 1000 images, last epoch, mean of 5 seeds. Accuracy in percent:

    cifar100 68.9   caltech101 87.7  dtd 64.3        flowers102 97.2  pets 86.9    svhn 87.4
    sun397 38.8     patch_camelyon 79.7  eurosat 95.7  resisc45 84.2  retinopathy 73.9
    clevr_count 56.3  clevr_distance 58.6  dmlab 41.7  kitti_distance 65.5
    dsprites_location 57.5  dsprites_orientation 46.7  smallnorb_azimuth 25.7
    smallnorb_elevation 29.1

    group means: Natural 75.88, Specialised 83.36, Structured 47.64; mean of 19 tasks 65.6

Tolerance: 1.5 (spread over seeds was not published). The learning rate was tuned for each task and
not published; the middle of the searched range stands here. Other baselines of the same table
(AdamW as well) by --config.method.name:

    finetune.Bias       Natural 73.30, Specialised 78.25, Structured 44.09
    finetune.Partial    69.44, 78.53, 34.17 (num_layers=1)
    adapter.Adapter     70.39, 77.11, 33.43 (published with layers that could not learn)

Choices `backbone` and `data` as in configs/vpt_vtab.py. Not measured here: it needs a GPU and the
weights.
"""

from ml_collections import ConfigDict

from configs import vpt_vtab

GRID = {
    "optim.lr": (0.001, 0.0001, 0.0005, 0.005),
    "optim.weight_decay": (0.01, 0.001, 0.0001, 0.0),
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe of a task: "svhn", "task=svhn" or "task=svhn,backbone=swin"."""
    config, _ = vpt_vtab.start(label, "finetune.Full")
    config.train.batch_size = 128
    config.optim.update(
        name="adamw", lr=0.001, lr_base_batch_size=256, weight_decay=0.01, warmup_epochs=10.0
    )
    return config
