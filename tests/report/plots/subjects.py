"""Runs without training, as subjects of pictures."""

import functools
from pathlib import Path

from configs import digits
from vpjax.report.plots.subject import Subject
from vpjax.runs import defaults
from vpjax.runs.config import merged
from vpjax.runs.experiment import prepare

CNN = defaults.backbone("cnn.CNN", image_size=8, width=4, channels=1)
MSVP = {"name": "msvp.MSVP", "head_init": "normal_0.02"}


@functools.cache
def experiment(kind: str):
    """An experiment on the embedded digits: prompts in a ViT or in pixels, or none."""
    config = digits.get_config("vpt_deep")
    if kind != "vpt":
        config.backbone = CNN
        config = merged(config, {"method": MSVP if kind == "msvp" else {"name": "finetune.Full"}})
        config.method.head_init = MSVP["head_init"]
    config.data.eval_batch_size = 24  # seven batches, the last one not full
    return prepare(config)


def subject(kind: str, folder: Path = Path("run"), **choices) -> Subject:
    e = experiment(kind)
    return Subject(e, e.state, folder, **choices)
