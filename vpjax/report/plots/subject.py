"""What a picture is drawn of: a trained model, the data it was tested on, and what to look at.

watched   runs a model as evaluation does, showing every tapped array on the way
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from vpjax.core.errors import UserError
from vpjax.models.model import Model
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers
from vpjax.runs.experiment import (
    Experiment,
    eval_batch_size,
    evaluate_split,
    image_loader,
    on_device,
)
from vpjax.train.step import State


class OfClass(NamedTuple):
    """A class to look at, by name (or id) or by label; by default that of the subject's image.

    `top_n` images a sub-prompt; `tau` of assignments, the checkpoint's if None; `split` that images
    are taken from, "train" too, the subject's if empty.
    """

    name: str = ""
    label: int | None = None
    top_n: int = 16
    tau: float | None = None
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run with numbers. Pictures take what they need of it; what costs time is made once.

    `image` is an example of the test split, or of val if there is none; `patch` a place (row,
    column) of its grid, the middle if None; `target` a site inside the network, see
    `vpjax.report.plots.gradcam`; `baseline` another run to compare with; `of_class` a class to look at.
    """

    experiment: Experiment
    state: State
    folder: Path
    image: int = 0
    patch: tuple[int, int] | None = None
    target: str = ""
    baseline: "Subject | None" = None
    of_class: OfClass = OfClass()

    @functools.cached_property
    def parts(self) -> tuple:
        """What `put_together` takes: the graph, then numbers."""
        state = self.state
        graph = self.experiment.parts.graph
        return graph, state.trainable, state.stats, self.experiment.frozen

    @functools.cached_property
    def model(self) -> Model:
        """The model itself, to ask for its sizes."""
        return merge(*self.parts)

    @property
    def name(self) -> str:
        """What is learnt there, for people."""
        return self.experiment.config.method.name.rpartition(".")[2]

    @property
    def split(self) -> str | None:
        """Where images are taken from: "test", else "val"; None if the run has neither."""
        return next((s for s in ("test", "val") if s in self.experiment.sources), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.experiment.sources["train"].classes

    @functools.cached_property
    def example(self) -> tuple[Float[Array, "1 H W C"], np.ndarray]:
        """The image as the model takes it, and as people see it (h w 3 or h w, uint8).

        Raises: UserError if it does not exist.
        """
        pixels, _ = self._read()
        config, size = self.experiment.config, self.experiment.image_size
        prepare = on_device(config, self.experiment.preset, size, train=False)
        inputs = jax.jit(lambda images: prepare(images, None))(pixels[None])
        seen = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        return inputs, np.clip(np.asarray(seen), 0, 255).astype(np.uint8)

    @functools.cached_property
    def label(self) -> Any:
        """The image's true class, or zeros and ones."""
        return self._read()[1]

    def _read(self):
        if self.split is None:
            raise UserError("the run has neither a test nor a val split to take an image from")
        source = self.experiment.sources[self.split]
        if not 0 <= self.image < len(source):
            raise UserError(
                f"image {self.image} does not exist: {source.name} has {len(source)}, from 0 on"
            )
        step, row = divmod(self.image, eval_batch_size(self.experiment.config))
        batch = image_loader(self.experiment, self.split).batch(step)
        return batch["image"][row], batch["label"][row]

    @functools.cached_property
    def tested(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted classes of the whole split, n each."""
        _, answers = evaluate_split(self.experiment, self.state, self.split)
        return answers.labels, answers.predictions


def watched(model: Model, images: Float[Array, "B H W C"], see: Callable) -> dict[str, Array]:
    """Returns the model's outputs as in evaluation.

    `see(site, y, ctx)` gets the output of every site, `ctx.layer` saying where (None: outside
    layers), and returns what goes on instead of it.
    """
    backbone, method = model.backbone, model.method

    def hook(site, y, x, ctx):
        return see(site, method.tap(site, y, x, ctx), ctx)

    ctx = dataclasses.replace(EVALUATION, hook=hook)
    state = method.start(backbone, images, ctx)
    state = run_layers(backbone.layers, state, method.step, ctx, method.num_outputs(backbone))
    return method.predict(backbone, state, ctx)
