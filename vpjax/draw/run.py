"""`--mode draw`: pictures of what a run has learnt, into its folder.

prompt_map.png   SA2VP: the prompt map, and what a patch of an image reads from it
"""

import contextlib
import logging
from pathlib import Path

import numpy as np

from vpjax import config as configs
from vpjax.draw.prompt_map import prompt_map
from vpjax.errors import UserError
from vpjax.methods.sa2vp import SA2VP
from vpjax.model import put_together
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.experiment import Experiment, eval_batch_size, loader, on_device, prepare
from vpjax.train.fit import restored

log = logging.getLogger(__name__)

PICTURES = {SA2VP: ("prompt_map", prompt_map)}  # method: name of the file, what draws it


def draw_run(folder: Path, image: int = 0, patch: tuple[int, int] | None = None) -> Path:
    """Draws a run from the checkpoint it selects; returns the picture's file.

    `image` is an example of the test split, or of val if there is none; `patch` a place (row,
    column) of its grid, the middle if None.
    Raises: UserError if the method has no picture, or there is no run, checkpoint or example.
    """
    config = configs.load(folder / "config.json")
    experiment = prepare(config)
    path = folder / "checkpoints" / config.train.select
    if not path.exists():
        raise UserError(f"{path} does not exist: the run has saved nothing yet")
    with contextlib.closing(Checkpoints(path)) as saved:
        found = restored(experiment, saved, only_weights=True)
    if found is None:
        raise UserError(f"{path} holds no checkpoint: the run has saved nothing yet")
    state, parts = found[0], experiment.parts
    model = put_together(parts.graph, state.trainable, state.stats, experiment.frozen)
    drawn = next((p for cls, p in PICTURES.items() if isinstance(model.method, cls)), None)
    if drawn is None:
        raise UserError(
            f"{config.method.name} has no picture of its own; {folder}/curves.png is its history"
        )
    name, draw = drawn
    figure = draw(model, *example(experiment, image), patch)
    figure.savefig(folder / f"{name}.png", dpi=150)
    log.info("picture   %s", folder / f"{name}.png")
    return folder / f"{name}.png"


def example(experiment: Experiment, image: int) -> tuple:
    """Returns one image as the model takes it (1 H W C), and as people see it (uint8)."""
    split = next((s for s in ("test", "val") if s in experiment.sources), None)
    if split is None:
        raise UserError("the run has neither a test nor a val split to take an image from")
    source, batch = experiment.sources[split], eval_batch_size(experiment.config)
    if not 0 <= image < len(source):
        raise UserError(f"image {image} does not exist: {source.name} has {len(source)}")
    pixels = loader(experiment, split).batch(image // batch)["image"][image % batch]
    config, size = experiment.config, experiment.image_size
    inputs = on_device(config, experiment.preset, size, train=False)(pixels[None], None)
    seen = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return inputs, np.clip(np.asarray(seen), 0, 255).astype(np.uint8)
