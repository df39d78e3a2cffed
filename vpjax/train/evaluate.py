"""Metrics of a split: every image counts once, padding does not count.

In percent, except the loss, the threshold and the count:

    one class an image    accuracy, top5 (with 2 classes: auc), mean_class_accuracy
    several classes       map, the mean average precision; mean_recall, over thresholds and
                          classes; f1_micro, f1_macro, f1_samples at `threshold`

The first of each row is the primary metric, which chooses checkpoints and stops early. A metric
that the split does not define, such as the AUC of a single class, is left out.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from vpjax.core.errors import UserError
from vpjax.methods.base import Method
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.train import losses
from vpjax.train.metrics import average_precision, best_f1, mean_recall, roc_auc
from vpjax.train.sharding import prefetch, to_host
from vpjax.train.step import ToInput

TOP = 5  # classes of an image that are kept


def primary_metric(multilabel: bool) -> str:
    """Return the metric that chooses checkpoints: "accuracy", or "map" for multi-label images."""
    return "map" if multilabel else "accuracy"


class Predictions(NamedTuple):
    """What a model predicts for the n images of a split that have one class each.

    Of C classes the k = min(`TOP`, C) most probable ones are kept, not all logits.

    Attributes:
        labels: the true classes.
        predictions: the predicted classes; of equal logits the lower class.
        margins: largest minus second largest softmax probability, 0 to 1.
        top: the most probable classes, the best first.
        shares: their softmax probabilities.
        own: the softmax probability of the true class.
        temperature: that logits are divided by for `tempered`; None: none is known.
        tempered: probability of the predicted class at that temperature.
    """

    labels: Int[np.ndarray, " n"]
    predictions: Int[np.ndarray, " n"]
    margins: Float[np.ndarray, " n"]
    top: Int[np.ndarray, "n k"]
    shares: Float[np.ndarray, "n k"]
    own: Float[np.ndarray, " n"]
    temperature: float | None = None
    tempered: Float[np.ndarray, " n"] | None = None


class SeveralPredictions(NamedTuple):
    """What a model predicts for the n images of a split that have any number of C classes.

    Attributes:
        labels: zeros and ones.
        probabilities: sigmoids of the logits.
    """

    labels: Int[np.ndarray, "n C"]
    probabilities: Float[np.ndarray, "n C"]


def in_top_k(logits: Float[Array, "B C"], labels: Int[Array, " B"], k: int) -> Bool[Array, " B"]:
    """Return whether the label is among the `k` highest logits; equal logits rank by class."""
    return (jax.lax.top_k(logits, k)[1] == labels[:, None]).any(-1)


@flax.struct.dataclass
class PerClass(metrics.Metric):
    """The mean over the classes that occur of the accuracy within a class, as a clu metric."""

    right: Any  # C, correct images of each class
    total: Any  # C, images of each class

    @classmethod
    def empty(cls) -> "PerClass":
        """Return the metric before any batch."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    @classmethod
    def from_model_output(cls, *, logits, labels, mask, **_) -> "PerClass":
        """Return the metric of a batch: logits B C, labels B, mask B."""
        shown = jax.nn.one_hot(labels, logits.shape[-1]) * mask[:, None]
        return cls((shown * in_top_k(logits, labels, 1)[:, None]).sum(0), shown.sum(0))

    def merge(self, other: "PerClass") -> "PerClass":
        """Return the metric of two batches together."""
        return PerClass(self.right + other.right, self.total + other.total)

    def compute(self) -> Array:
        """Return the mean accuracy within a class, 0 to 1."""
        present = self.total > 0
        return (self.right / jnp.maximum(self.total, 1)).sum() / jnp.maximum(present.sum(), 1)


@flax.struct.dataclass
class SingleLabel(metrics.Collection):
    """Metrics of a split whose images have one class each."""

    accuracy: metrics.Accuracy
    top5: metrics.Average.from_output("top5")
    mean_class_accuracy: PerClass
    loss: metrics.Average.from_output("loss")


@flax.struct.dataclass
class MultiLabel(metrics.Collection):
    """Metrics of a split whose images have several classes; others need `whole_split_metrics`."""

    loss: metrics.Average.from_output("loss")


class EvalStep:
    """The jitted step(trainable, stats, frozen, batch, key=None, settled={}) -> metrics, scores.

    Args:
        graph: of the model, see `vpjax.models.partition`.
        step: the function.

    Attributes:
        settle: the parts of the model -> `settled`, see `make_settle`.
    """

    def __init__(self, graph: tuple, step: Callable):
        self._step, self.settle = jax.jit(step), make_settle(graph)

    def __call__(self, *arguments: Any) -> tuple[metrics.Collection, dict[str, Array]]:
        return self._step(*arguments)

    def lower(self, *arguments: Any) -> Any:
        """Return the lowered step, see `jax.jit`."""
        return self._step.lower(*arguments)


def make_settle(graph: tuple) -> Callable:
    """Return what computes once what a method computes of no image, see `Method.settle`.

    Args:
        graph: of the model, see `vpjax.models.partition`.

    Returns:
        A function of the dictionaries {name: array} that together hold every array once.
    """
    settle = type(nnx.merge(*graph).method).settle
    if settle is Method.settle:
        return lambda *parts: {}
    return jax.jit(lambda *parts: merge(graph, *parts).method.settle())


def make_eval_step(
    graph: tuple, to_input: ToInput, criterion: Callable = losses.softmax
) -> EvalStep:
    """Return the step of an evaluation.

    Args:
        graph: of the model, see `vpjax.models.partition`.
        to_input: batch, key -> what the model takes. With a key it may augment images as in
            training.
        criterion: logits, labels -> loss of each image.

    Returns:
        The step. `metrics` is a clu collection of the batch; `scores` are by image: "labels",
        "mask" and "logits", and where images have one class the other fields of `Predictions`.
    """

    def eval_step(trainable, stats, frozen, batch, key=None, settled=None):
        model = merge(graph, trainable, stats, frozen)
        ctx = dataclasses.replace(EVALUATION, settled=settled or {})
        out = model(to_input(batch, key), ctx)
        logits, labels = out["logits"], batch["label"]
        found = {"loss": model.method.loss(out, labels, criterion, ctx), "mask": batch["mask"]}
        scores = {"labels": labels, "mask": batch["mask"], "logits": logits}
        if labels.ndim == 2:
            return MultiLabel.single_from_model_output(**found), scores
        found |= {
            "logits": logits,
            "labels": labels,
            "top5": in_top_k(logits, labels, min(TOP, logits.shape[-1])),
        }
        scores |= {"predictions": logits.argmax(-1), "margins": margins(logits)}
        top, shares, own = most_probable(logits, labels)
        scores |= {"top": top, "shares": shares, "own": own}
        return SingleLabel.single_from_model_output(**found), scores

    return EvalStep(graph, eval_step)


def most_probable(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], k: int = TOP
) -> tuple[Int[Array, "B k"], Float[Array, "B k"], Float[Array, " B"]]:
    """Return the most probable classes, their softmax probabilities, and that of the true class.

    Args:
        logits: of all classes.
        labels: the true classes.
        k: how many classes; all if there are fewer.
    """
    logits = logits.astype(jnp.float32)
    total = jax.nn.logsumexp(logits, axis=-1)
    highest, top = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    own = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
    return top, jnp.exp(highest - total[:, None]), jnp.exp(own - total)


def margins(logits: Float[Array, "B C"]) -> Float[Array, " B"]:
    """Return the largest minus the second largest softmax probability of each image, 0 to 1."""
    logits = logits.astype(jnp.float32)
    best = jax.lax.top_k(logits, min(2, logits.shape[-1]))[0]
    shares = jnp.exp(best - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
    return shares[:, 0] - shares[:, 1:].sum(-1)


def evaluate(
    eval_step: EvalStep,
    weights: Mapping[str, Any],
    frozen: Mapping[str, Any],
    batches: Iterable[Mapping[str, Any]],
    mesh: Mesh,
    key: Array | None = None,
    batch_loss: bool = False,
    look: Callable | None = None,
) -> tuple[dict[str, float], Predictions | SeveralPredictions, list[Any]]:
    """Evaluate a model on a split.

    Args:
        eval_step: from `make_eval_step`.
        weights: "trainable" and "stats", dictionaries {name: array}.
        frozen: the frozen parameters.
        batches: of the split, once; "mask" is False for padding.
        mesh: the devices.
        key: PRNG key; given, images are augmented as in training.
        batch_loss: whether to add "batch_loss", the mean over batches of their losses, as some
            published code reports it: images of a short last batch weigh more in it.
        look: jitted function of a batch's logits, labels and mask, as of `vpjax.train.calibration`;
            not called where images have several classes.

    Returns:
        The metrics by name, with the primary one, "loss" and "count" always among them; the
        predictions; and what `look` returned of every batch, on the host.

    Raises:
        UserError: if no image counts.
    """
    total, collected, means, seen = None, [], [], []
    parts = weights["trainable"], weights["stats"], frozen
    settled = eval_step.settle(*parts)
    for i, batch in enumerate(prefetch(iter(batches), mesh)):
        own = None if key is None else jax.random.fold_in(key, i)
        sums, scores = eval_step(*parts, batch, own, settled)
        if batch_loss:
            means.append(_loss(sums))
        total = sums if total is None else _merged(total, sums)
        if scores["labels"].ndim == 1:
            if look is not None:
                seen.append(look(scores["logits"], scores["labels"], scores["mask"]))
            if scores["logits"].shape[-1] != 2:
                del scores["logits"]  # of all images they may be larger than the memory
        collected.append(scores)
    computed, count = jax.device_get(_computed(total))
    if not count:
        raise UserError("not one image of the split can be read")
    numbers = {k: float(v) for k, v in computed.items()}
    loss = numbers.pop("loss")
    pieces, seen = to_host((collected, seen))
    real = np.concatenate([p.pop("mask") for p in pieces])
    scores = {k: np.concatenate([p[k] for p in pieces])[real] for k in pieces[0]}
    if (logits := scores.pop("logits", None)) is not None:
        numbers |= whole_split_metrics(logits, scores["labels"])
    if "auc" in numbers:
        del numbers["top5"]  # of two classes
    out = {k: v if k == "threshold" else 100 * v for k, v in numbers.items() if math.isfinite(v)}
    if batch_loss:
        out["batch_loss"] = float(np.mean(jax.device_get(means)))
    metric = primary_metric(multilabel="map" in out)
    numbers = {metric: out[metric], "loss": loss, "count": int(count)} | out
    if "predictions" in scores:
        return numbers, Predictions(**scores), seen
    return numbers, SeveralPredictions(scores["labels"], sigmoid(logits)), seen


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logits)) in float32, without overflow."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64))).astype(np.float32)


# Jitted, as every metric by itself would dispatch several programs.
_merged = jax.jit(lambda total, sums: total.merge(sums))
_computed = jax.jit(lambda total: (total.compute(), total.loss.count))
_loss = jax.jit(lambda sums: sums.loss.compute())


def whole_split_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the metrics that need the logits of a whole split.

    Args:
        logits: n C.
        labels: n classes, or n C zeros and ones.
    """
    return (
        {"auc": auc_of_two(logits, labels)}
        if labels.ndim == 1
        else multilabel_metrics(logits, labels)
    )


def auc_of_two(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve for two classes, 0 to 1; NaN if only one occurs.

    Args:
        logits: n 2.
        labels: n.
    """
    logits = logits.astype(np.float64)
    # The difference of the logits orders images as probabilities would.
    return roc_auc(logits - logits[:, ::-1], np.eye(2, dtype=int)[labels])


def multilabel_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return mAP, mean recall and F1 scores, 0 to 1; classes without positives are left out.

    Args:
        logits: n C.
        targets: n C zeros and ones.

    Raises:
        UserError: if no image has a class.
    """
    if not targets.any():
        raise UserError(
            "no image of the split has a label, so its mAP is not defined. Choose another split."
        )
    found = targets.any(0)
    f1 = best_f1(np.exp(-np.logaddexp(0, -logits.astype(np.float64))), targets)
    ap = float(average_precision(logits, targets)[found].mean())
    return {
        "map": ap,
        "mean_recall": float(mean_recall(logits, targets)[found].mean()),
        **{f"f1_{k}": f1[k] for k in ("micro", "macro", "samples")},
        "threshold": f1["threshold"],
    }
