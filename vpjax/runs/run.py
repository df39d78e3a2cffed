"""Using a trained run without its training data: `load_run(folder).predict("holiday/")`."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num
from ml_collections import ConfigDict

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.core.files import read_json
from vpjax.data import Loader, from_arrays, open_images, open_source, preset
from vpjax.data.source import Source
from vpjax.models.create import create_model
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition, trainable_line
from vpjax.runs import model_file, recorded, summary
from vpjax.runs.addresses import run_folder
from vpjax.runs.experiment import (
    BY_HAND,
    BuiltModel,
    ClassInfo,
    GivenModel,
    build_model,
    decoding,
    make_criterion,
    method_spec,
)
from vpjax.runs.inputs import image_to_input
from vpjax.runs.keep import write_learnt
from vpjax.runs.restore import Record, read_classes, selected_state
from vpjax.runs.scores import evaluate_run
from vpjax.train import sharding
from vpjax.train.evaluate import evaluate, make_eval_step
from vpjax.train.step import State

BATCH = 64  # default batch size of predictions


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predictions of a run for n images.

    Attributes:
        labels: index of the most probable class of each image.
        class_names: name of that class.
        probabilities: of every class; softmax, or sigmoid where an image has several classes.
        paths: file of each image; "0", "1" ... where images are arrays.
    """

    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    probabilities: Float[np.ndarray, "n C"]
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        best = self.probabilities.max(-1)
        shown = zip(self.paths, self.class_names, best, strict=True)
        lines = [f"{path}: {name} ({100 * share:.1f} %)" for path, name, share in shown]
        more = [f"... and {len(lines) - 10} more"] * (len(lines) > 10)
        return "\n".join([f"{len(self)} images", *lines[:10], *more])


class Run:
    """A trained run: made by `vpjax.load_run` or `vpjax.fit`.

    Attributes:
        folder: of the run.
        config: its whole config.
        classes: names of the classes, in the order of the logits.
    """

    def __init__(
        self,
        folder: Path,
        config: ConfigDict,
        classes: ClassInfo,
        built: BuiltModel,
        state: State,
    ):
        self.folder, self.config = folder, config
        self.classes, self._classes = classes.names, classes
        self._built, self._state = built, state

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json, metrics and facts; None if the run has not finished.

        Without that file, the metrics in model.safetensors.
        """
        found = read_json(self.folder / "result.json")
        if found is None and (file := model_file.find(self.folder)):
            found = model_file.read_facts(file)["metrics"]
        return found

    @property
    def model(self) -> Model:
        """The trained model, which maps images (uint8 B H W C) to a dictionary of outputs."""
        parts = self.parts
        model = merge(parts.graph, parts.trainable, parts.stats, parts.frozen)
        model.backbone.preset, model.backbone.dtype = self._built.preset, self.config.dtype
        return model

    @property
    def parts(self) -> ModelParts:
        """The trained model as arrays by name, and the graph that joins them."""
        state = self._state
        return self._built.parts._replace(trainable=state.trainable, stats=state.stats)

    @property
    def preset(self) -> str:
        """The preprocessing, a name in `vpjax.data.PRESETS` or its fields."""
        return self._built.preset

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of images as the model takes them."""
        return self._built.image_size

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self._classes.multilabel

    @property
    def weights_file(self) -> Path | None:
        """The file that the backbone was loaded from; None: it began with random numbers."""
        return self._built.loaded.path if self._built.loaded else None

    def outputs(self, images: Num[np.ndarray, "B H W C"]) -> dict[str, np.ndarray]:
        """Return logits and features of images that are decoded and resized already.

        Args:
            images: of the run's image size, values 0 to 255.
        """
        parts = self.parts
        batch = {"image": jnp.asarray(images)}
        out = self._forward(parts.trainable, parts.stats, parts.frozen, batch)
        return {k: np.asarray(v) for k, v in out.items()}

    def backbone_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the backbone by name, such as "layers/0/attn/out/kernel"."""
        parts, start = self.parts, "backbone/"
        values = parts.frozen | parts.trainable | parts.stats
        return {
            n.removeprefix(start): np.asarray(v) for n, v in values.items() if n.startswith(start)
        }

    def trained_names(self) -> list[str]:
        """Return the names of parameters and running averages that training may have changed."""
        return [*self.parts.trainable, *self.parts.stats]

    def save(self, path: str | Path) -> Path:
        """Write what was learnt as one file, which `load_run` takes; see `vpjax.runs.model_file`.

        Args:
            path: of the file, which must end in .safetensors.

        Raises:
            UserError: for another ending, or if there is no such folder.
        """
        path = Path(path)
        if path.suffix != ".safetensors" or not path.absolute().parent.is_dir():
            raise UserError(f"{path}: give a file that ends in .safetensors, in a folder that is")
        metrics = {"step": int(self._state.step)} | summary.metrics_of(self.result or {})
        write_learnt(self.config, self._classes, self._built, self._state, metrics, path)
        return path

    def predict(self, images: Any, batch_size: int = BATCH) -> Prediction:
        """Predict the classes of images.

        Args:
            images: uint8 `B H W C`, a list of uint8 `H W C`, a path, a list of paths, or a folder.
            batch_size: images that are computed at once.

        Raises:
            UserError: if there are no images, or one cannot be read.
        """
        source = self._images(images)
        outputs = list(self._outputs(source, batch_size))
        probabilities = np.concatenate([self._probabilities(out["logits"]) for out in outputs])
        labels = probabilities.argmax(-1)
        names = tuple(self.classes[i] for i in labels)
        paths = getattr(source.records, "names", None) or range(len(source))
        return Prediction(labels, names, probabilities, tuple(map(str, paths)))

    def features(self, images: Any, batch_size: int = BATCH) -> Float[np.ndarray, "n D"]:
        """Return the features of images that the head reads; see `predict` for the arguments."""
        source = self._images(images)
        return np.concatenate([out["features"] for out in self._outputs(source, batch_size)])

    def evaluate(
        self, data: Any = None, split: str = "test", batch_size: int = BATCH
    ) -> dict[str, float]:
        """Evaluate the run on labelled images.

        Args:
            data: (images, labels); or the name of a data set, such as "folder:PATH"; None: the
                test split (or else val) of the data that the run was trained with.
            split: of the data set, if `data` is a name.
            batch_size: images that are computed at once.

        Returns:
            The metrics by name, such as "accuracy" (percent), "loss" and "count". With `data` None
            names begin with the split, "test_accuracy".

        Raises:
            UserError: if the data are missing, or their classes are not those of the run.
        """
        if data is None and not self.folder.is_dir():
            raise UserError(
                f"{self.folder} is a file, and evaluating on the run's own data writes files into "
                "its folder. Give data, or load a folder with config.json and classes.json too."
            )
        if data is None:
            return evaluate_run(self.folder)
        if isinstance(data, str):
            source = open_source(data, split, decoding=decoding(self.config))
        else:
            images, labels = data
            source = from_arrays(images, labels, classes=self.classes)
        if tuple(source.classes) != self.classes:
            raise UserError(
                f"{source.name} has the classes {', '.join(source.classes[:10])}; the run has "
                f"{', '.join(self.classes[:10])}. Give data with the same classes in this order."
            )
        config = self.config.copy_and_resolve_references()
        config.train.class_weights = "none"
        parts, mesh = self.parts, sharding.make_mesh(1)
        to_input = self._to_input()
        eval_step = make_eval_step(parts.graph, to_input, make_criterion(config, source))
        weights = {"trainable": parts.trainable, "stats": parts.stats}
        batches = self._loader(source, batch_size).batches()
        return evaluate(eval_step, weights, parts.frozen, batches, mesh)[0]

    def _images(self, images: Any) -> Source:
        if isinstance(images, Source):
            return images
        source = open_images(images)
        source.decoding = decoding(self.config)
        return source

    def _loader(self, source: Source, batch_size: int) -> Loader:
        chosen = preset(self._built.preset)
        size = min(batch_size, max(1, len(source)))
        return Loader(source, size, chosen, self._built.image_size, train=False)

    def _to_input(self) -> Callable:
        channels = self.config.backbone.get("channels", 3)
        built = self._built
        return image_to_input(built.preset, built.image_size, channels, self.config.dtype)

    @functools.cached_property
    def _forward(self) -> Callable:
        graph, to_input = self._built.parts.graph, self._to_input()

        @jax.jit
        def forward(trainable, stats, frozen, batch):
            out = merge(graph, trainable, stats, frozen)(to_input(batch, None))
            return {k: out[k].astype(jnp.float32) for k in ("logits", "features") if k in out}

        return forward

    def _outputs(self, source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        if not len(source):
            raise UserError(f"{source.name} has no images; give at least one")
        parts = self.parts
        for batch in self._loader(source, batch_size).batches():
            images = {"image": jnp.asarray(batch["image"])}
            out = self._forward(parts.trainable, parts.stats, parts.frozen, images)
            yield {k: np.asarray(v)[batch["mask"]] for k, v in out.items()}

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        share = jax.nn.sigmoid if self._classes.multilabel else jax.nn.softmax
        return np.asarray(share(jnp.asarray(logits)))

    def __repr__(self) -> str:
        method, backbone = self.config.method.name, self.config.backbone.name
        lines = [
            f"Run {self.folder}: {method} on {backbone}, {trainable_line(self.parts)}",
            f"classes: {', '.join(self.classes[:10])}"
            + (f" and {len(self.classes) - 10} more" if len(self.classes) > 10 else ""),
        ]
        if (result := self.result) is not None:
            metric = result["metric"]
            for split in ("val", "test"):
                if (value := result.get(f"{split}_{metric}")) is not None:
                    lines.append(f"{split} {metric} {value:.2f} %")
        return "\n".join(lines)


def load_run(
    folder: str | Path,
    backbone: Backbone | None = None,
    weights: str = "",
    checkpoint: str = "",
    attention: str = "",
) -> Run:
    """Load a trained run; its training data are not needed.

    Args:
        folder: of the run, as it was written or as model.safetensors with config.json and
            classes.json; a model.safetensors alone; or the name of such a folder on the Hugging
            Face hub.
        backbone: the backbone it was trained on, if that was made by hand and cannot be made again
            from the run's config; None: it is.
        weights: where the frozen weights lie now; "": where they were.
        checkpoint: "last", "best" or a step; "": the one that the run reports.
        attention: implementation of attention, see `vpjax.nn.attention`; "": that of the run.

    Raises:
        UserError: if there is no run or no intact checkpoint, or the weights are others now.
    """
    folder = run_folder(folder)
    config = recorded.load(folder)
    if weights:
        config.backbone.weights = weights
    config.attention = attention or config.attention
    classes = read_classes(folder)
    if backbone is None and config.backbone.weights == BY_HAND:
        raise UserError(
            f"{folder} was trained on a backbone that was made by hand, {config.backbone.name}. "
            "Pass that: load_run(folder, backbone=...)."
        )
    mesh = sharding.make_mesh(1)
    given = None if backbone is None else model_on(config, backbone, classes)
    built = build_model(config, classes, mesh, given=given)
    parts = built.parts
    arrays = jax.tree.map(jnp.asarray, (parts.trainable, parts.stats, parts.frozen))
    built = built._replace(parts=ModelParts(parts.graph, *arrays))
    like = State(jnp.int32(0), *arrays[:2], None, None)
    record = Record(config, classes.names, built.preset, built.identity)
    return Run(folder, config, classes, built, selected_state(folder, like, record, checkpoint))


def model_on(config: ConfigDict, backbone: Backbone, classes: ClassInfo) -> GivenModel:
    """Return a config's model on an existing backbone.

    Args:
        config: of a run.
        backbone: the backbone.
        classes: of the model.
    """
    spec = method_spec(config)
    model = create_model(
        backbone,
        spec.name,
        len(classes.names),
        trainable=config.train.trainable,
        match_reference_code=config.match_reference_code,
        class_names=classes.names,
        seed=config.seed,
        **spec.options,
    )
    return given_model(model)


def given_model(model: Model) -> GivenModel:
    """Return a model from `create_model` as `vpjax.runs.experiment.prepare` takes it."""
    origin = getattr(model.backbone, "origin", None)
    loaded = origin.loaded if origin else None
    return GivenModel(partition(model, model.trainable_pattern), loaded, model.backbone.preset)
