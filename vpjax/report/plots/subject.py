"""The subject of a picture: a trained model, its test images, and which of them to show.

`watched` runs a model as evaluation does and hands every tapped array to a function.
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
from vpjax.data.source import Source
from vpjax.models.model import Model
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers
from vpjax.runs.evaluate import predict_split
from vpjax.runs.experiment import Experiment
from vpjax.runs.scores import recorded_calibration
from vpjax.runs.split_files import AnyPredictions
from vpjax.train.step import State


class SubpromptOptions(NamedTuple):
    """Which sub-prompts to draw: those of a class, by default the class of the subject's image.

    Attributes:
        name: the class by its name or id.
        label: the class by its label.
        top_n: images for each sub-prompt.
        tau: temperature of the assignment; None: that of the checkpoint.
        split: where images are taken from, such as "train"; "": the subject's split.
    """

    name: str = ""
    label: int | None = None
    top_n: int = 16
    tau: float | None = None
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained run and what to show of it; slow parts are computed once, when they are used.

    Attributes:
        image: index of an example of the test split, or of val if there is no test.
        patch: row and column in the grid of patches; None: the middle.
        target: a site inside the network, see `vpjax.report.plots.gradcam`.
        baseline: another run to compare with.
        subprompt_options: which sub-prompts to draw.
        given: the predictions for the split; None: they are computed when they are needed.
    """

    experiment: Experiment
    state: State
    folder: Path
    image: int = 0
    patch: tuple[int, int] | None = None
    target: str = ""
    baseline: "Subject | None" = None
    subprompt_options: SubpromptOptions = SubpromptOptions()
    given: AnyPredictions | None = None

    @functools.cached_property
    def parts(self) -> tuple:
        """The arguments of `vpjax.models.partition.merge`: the graph, then parameters."""
        state = self.state
        graph = self.experiment.parts.graph
        return graph, state.trainable, state.stats, self.experiment.frozen

    @functools.cached_property
    def model(self) -> Model:
        """The model."""
        return merge(*self.parts)

    @property
    def name(self) -> str:
        """The method's name without its module: "VPT"."""
        return self.experiment.config.method.name.rpartition(".")[2]

    @property
    def split(self) -> str | None:
        """The split that images are from: "test", else "val"; None if the run has neither."""
        return next((s for s in ("test", "val") if s in self.experiment.sources), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of the classes, in the order of the logits."""
        return self.experiment.classes.names

    @functools.cached_property
    def example(self) -> tuple[Float[Array, "1 H W C"], np.ndarray]:
        """The image as the model takes it, and to show (h w 3 or h w, uint8).

        Raises:
            UserError: if it does not exist.
        """
        pixels, _ = self._read()
        to_input = self.experiment.inputs.images.to_input(train=False)
        inputs = jax.jit(lambda batch: to_input(batch, None))({"image": pixels[None]})
        seen = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        return inputs, np.clip(np.asarray(seen), 0, 255).astype(np.uint8)

    @functools.cached_property
    def label(self) -> Any:
        """The image's true class; zeros and ones where images have several."""
        return self._read()[1]

    @property
    def where(self) -> str:
        """Which image it is: its file or its number, and the split."""
        source = self.experiment.sources[self.split]
        file = source.records.__getitems__([self.image])[0].file
        return f"{file or f'number {self.image}'} of {source.name}"

    def _read(self):
        if self.split is None:
            raise UserError("the run has neither a test nor a val split to take an image from")
        source = self.experiment.sources[self.split]
        if not 0 <= self.image < len(source):
            raise UserError(
                f"image {self.image} does not exist: {source.name} has {len(source)}, from 0 on"
            )
        loader = self.experiment.inputs.images.loader(self.split)
        step, row = divmod(self.image, loader.batch_size)
        batch = loader.batch(step)
        return batch["image"][row], batch["label"][row]

    @functools.cached_property
    def predictions(self) -> AnyPredictions:
        """What the run predicts for the images of the split."""
        if self.given is not None:
            return self.given
        known = recorded_calibration(self.folder, int(self.state.step)).get("temperature")
        return predict_split(self.experiment, self.state, self.split, known)[1]

    @property
    def source(self) -> Source:
        """The images of the split."""
        return self.experiment.sources[self.split]

    @property
    def tested(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted classes of the n images of the split."""
        return self.predictions.labels, self.predictions.predictions


class Answered(NamedTuple):
    """What the pictures of predictions need of a subject, where nothing else is known of it.

    Attributes:
        predictions: of the images.
        classes: names of the classes.
        source: the images.
    """

    predictions: AnyPredictions
    classes: tuple[str, ...]
    source: Source

    @property
    def tested(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted classes of the images."""
        return self.predictions.labels, self.predictions.predictions


def watched(model: Model, images: Float[Array, "B H W C"], see: Callable) -> dict[str, Array]:
    """Return the model's outputs as in evaluation.

    Args:
        see: called as see(site, y, ctx) with the output of every site; `ctx.layer` is the layer's
            index, None outside the layers. The model goes on with what it returns.
    """
    backbone, method = model.backbone, model.method

    def hook(site, y, x, ctx):
        return see(site, method.tap(site, y, x, ctx), ctx)

    ctx = dataclasses.replace(EVALUATION, hook=hook)
    state = method.start(backbone, images, ctx)
    state = run_layers(backbone.layers, state, method.step, ctx, method.num_outputs(backbone))
    return method.predict(backbone, state, ctx)
