"""Using a trained run without its training data: `load_run(folder).predict("holiday/")`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num
from ml_collections import ConfigDict

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.data import from_arrays, open_images, open_source
from vpjax.data.class_names import clean
from vpjax.data.forgiving import Forgiving, readable_batches
from vpjax.data.labelled import is_place, open_labelled
from vpjax.data.order import few
from vpjax.data.source import Source
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, trainable_line
from vpjax.runs import model_file, places, recorded, summary
from vpjax.runs.addresses import run_folder
from vpjax.runs.classes import ClassInfo, read_classes
from vpjax.runs.experiment import (
    BY_HAND,
    BuiltModel,
    build_model,
    decoding,
    make_criterion,
)
from vpjax.runs.given import model_on
from vpjax.runs.keep import write_learnt
from vpjax.runs.predict import BATCH, Prediction, Predictor, none_readable, probabilities
from vpjax.runs.reopen import to_restore
from vpjax.runs.restore import Record, selected_state
from vpjax.runs.scores import evaluate_run, recorded_calibration
from vpjax.runs.split_files import AnyPredictions
from vpjax.runs.workdir import read_result
from vpjax.train import sharding
from vpjax.train.evaluate import evaluate, make_eval_step
from vpjax.train.step import State


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
        found = read_result(self.folder)
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
        out, _ = self.predictor.on(images)
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

    def predict(
        self,
        images: Any,
        batch_size: int = BATCH,
        *,
        skip_unreadable: bool = False,
        calibrated: bool = False,
    ) -> Prediction:
        """Predict the classes of images.

        Args:
            images: uint8 `B H W C`, a list of uint8 `H W C`, a path, a list of paths, a folder, or
                a list of paths in a text file or a table, see `vpjax.data.photo_paths`.
            batch_size: images that are computed at once.
            skip_unreadable: whether files that are missing or broken are left out and noted in
                `skipped`; else they are an error.
            calibrated: whether logits are divided by the temperature that was found on val.

        Raises:
            UserError: if there are no images, one cannot be read, or there is no temperature.
        """
        source = self.open_images(images, skip_unreadable)
        heat = self.temperature() if calibrated else 1.0
        found, index, seconds = [], [], 0.0
        for out in self.predictor.outputs(source, batch_size):
            found.append(probabilities(out.values["logits"], self.multilabel, heat))
            index.append(out.index)
            seconds += out.seconds
        paths = getattr(source.records, "names", None) or [str(i) for i in range(len(source))]
        skipped = source.skipped if isinstance(source, Forgiving) else {}
        kept = np.concatenate(index)
        if not len(kept):
            raise none_readable(skipped)
        shares = np.concatenate(found)
        labels = shares.argmax(-1)
        names = tuple(self.classes[i] for i in labels)
        return Prediction(labels, names, shares, tuple(paths[i] for i in kept), skipped, seconds)

    def features(self, images: Any, batch_size: int = BATCH) -> Float[np.ndarray, "n D"]:
        """Return the features of images that the head reads; see `predict` for the arguments."""
        source = self.open_images(images)
        outputs = self.predictor.outputs(source, batch_size)
        return np.concatenate([out.values["features"] for out in outputs])

    def evaluate(
        self,
        data: Any = None,
        split: str = "test",
        batch_size: int = BATCH,
        *,
        skip_unreadable: bool = False,
    ) -> dict[str, float]:
        """Evaluate the run on labelled images.

        Args:
            data: (images, labels); a folder with a folder for each class, or a list of paths and
                classes; or the name of a data set, such as "cifar10"; None: the test split (or
                else val) of the data that the run was trained with.
            split: of the data set, if `data` is a name or holds splits.
            batch_size: images that are computed at once.
            skip_unreadable: whether broken files are left out, which "skipped" counts; else they
                are an error.

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
        if is_place(data):
            source = open_labelled(data, self.classes, split, decoding(self.config))
        elif isinstance(data, str):
            source = open_source(data, split, decoding=decoding(self.config))
        else:
            images, labels = data
            source = from_arrays(images, labels, classes=self.classes)
        if tuple(source.classes) != self.classes:
            raise UserError(
                f"{source.name} has the classes {', '.join(source.classes[:10])}; the run has "
                f"{', '.join(self.classes[:10])}. Give data with the same classes in this order."
            )
        if skip_unreadable:
            source = Forgiving(source)
        values = self.measure(source, batch_size)[0]
        return values | ({"skipped": len(source.unreadable)} if skip_unreadable else {})

    def measure(
        self, source: Source, batch_size: int = BATCH, look: Callable | None = None
    ) -> tuple[dict[str, float], AnyPredictions, list[Any]]:
        """Return the metrics of labelled images, predictions, and what `look` saw.

        Args:
            source: with the run's classes.
            batch_size: images that are computed at once.
            look: see `vpjax.train.evaluate.evaluate`.
        """
        config = self.config.copy_and_resolve_references()
        config.train.class_weights = "none"
        parts, mesh, predictor = self.parts, sharding.make_mesh(1), self.predictor
        criterion = make_criterion(config, source)
        eval_step = make_eval_step(parts.graph, predictor.to_input(), criterion)
        weights = {"trainable": parts.trainable, "stats": parts.stats}
        keys = ("image", "label", "mask")
        batches = (
            {k: batch[k] for k in keys}
            for batch in readable_batches(predictor.loader(source, batch_size))
        )
        return evaluate(eval_step, weights, parts.frozen, batches, mesh, look=look)

    def open_images(self, images: Any, skip_unreadable: bool = False) -> Source:
        """Return images without labels as a source; see `predict` for the arguments.

        Raises:
            UserError: if there are none.
        """
        if isinstance(images, Source):
            return images
        source = open_images(images, lost := {} if skip_unreadable else None)
        source.decoding = decoding(self.config)
        if not len(source):
            raise none_readable(lost or {}, source.name)
        if skip_unreadable:
            source = Forgiving(source, lost)
        return source

    def temperature(self) -> float:
        """Return the temperature that was found on val when the run ended.

        Raises:
            UserError: if there is none.
        """
        known = recorded_calibration(self.folder, int(self._state.step))
        if (value := known.get("temperature")) is None:
            why = known.get("why_none") or "it has no val split, or it is of an older version"
            raise UserError(f"{self.folder} has no temperature: {why}. Predict without it.")
        return value

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self._state.step)

    @property
    def metadata(self) -> tuple[Mapping[str, Any], ...]:
        """What is known of each class, {"name": ...}."""
        return self._classes.metadata

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The model on images of a source."""
        return Predictor(self.parts, self._built, self.config)

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
    classes: Sequence[str] = (),
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
        classes: names of others, for methods whose context goes before any names; (): the run's.

    Raises:
        UserError: if there is no run or no intact checkpoint, or the weights are others now.
    """
    folder = run_folder(folder)
    config = recorded.load(folder, [places.WEIGHTS] if weights else ())
    if weights:
        config.backbone.weights = weights
    config.attention = attention or config.attention
    return restored_run(folder, config, backbone, checkpoint, classes)


def restored_run(
    folder: Path,
    config: ConfigDict,
    backbone: Backbone | None = None,
    checkpoint: str = "",
    others: Sequence[str] = (),
) -> Run:
    """Return a trained run.

    Args:
        folder: of the run.
        config: of the run, see `vpjax.runs.recorded`.
        backbone, checkpoint: see `load_run`.
        others: names of other classes than the run's; (): its own.

    Raises:
        UserError: as `load_run` does.
    """
    classes = read_classes(folder)
    if others:
        classes = ClassInfo(tuple(others), tuple({"name": clean(name)} for name in others))
    if backbone is None:
        places.check(config, folder, (places.WEIGHTS, "text.tokenizer"))
    if backbone is None and config.backbone.weights == BY_HAND:
        raise UserError(
            f"{folder} was trained on a backbone that was made by hand, {config.backbone.name}. "
            "Pass that: load_run(folder, backbone=...)."
        )
    mesh = sharding.make_mesh(1)
    given = None if backbone is None else model_on(config, backbone, classes)
    built = build_model(to_restore(config, config), classes, mesh, given=given)
    parts = built.parts
    if others and not merge(*parts).method.for_any_classes:
        raise UserError(
            f"{folder} has learnt the classes {few(read_classes(folder).names)} and nothing about "
            f"others: {config.method.name} has parameters for each. Load it without classes."
        )
    arrays = jax.tree.map(jnp.asarray, (parts.trainable, parts.stats, parts.frozen))
    built = built._replace(parts=ModelParts(parts.graph, *arrays))
    like = State(jnp.int32(0), *arrays[:2], None, None)
    other = config.data.preset != recorded.load(folder).data.preset
    preset = None if other else built.preset
    record = Record(config, classes.names, preset, built.identity, moved=bool(others))
    return Run(folder, config, classes, built, selected_state(folder, like, record, checkpoint))
