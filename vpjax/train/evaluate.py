"""A split, evaluated once: every image counts, padding does not.

Percent, but for the loss, the threshold and the count:

    one class an image    accuracy, top5 (of 2 classes: auc), per_class, the mean over classes
    several               accuracy, which is map, the mean average precision; recall, averaged over
                          thresholds and classes; f1_micro, f1_macro, f1_samples at `threshold`

A number that the split does not define, such as the AUC of a single class, is left out.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from vpjax import losses
from vpjax.context import Context
from vpjax.errors import UserError
from vpjax.metrics import average_precision, best_f1, mean_recall, roc_auc
from vpjax.model import put_together
from vpjax.train.sharding import prefetch, replicate
from vpjax.train.step import Prepare


def hits(logits: Float[Array, "B C"], labels: Int[Array, " B"], k: int) -> Bool[Array, " B"]:
    """Whether the label is among the k highest logits; of equal ones the lower class is higher."""
    return (jax.lax.top_k(logits, k)[1] == labels[:, None]).any(-1)


@flax.struct.dataclass
class PerClass(metrics.Metric):
    """Right answers and images of each class; computes the mean accuracy of classes that occur."""

    right: Any  # C
    total: Any  # C

    @classmethod
    def empty(cls) -> "PerClass":
        return cls(jnp.zeros(()), jnp.zeros(()))

    @classmethod
    def from_model_output(cls, *, logits, labels, mask, **_) -> "PerClass":
        shown = jax.nn.one_hot(labels, logits.shape[-1]) * mask[:, None]
        return cls((shown * hits(logits, labels, 1)[:, None]).sum(0), shown.sum(0))

    def merge(self, other: "PerClass") -> "PerClass":
        return PerClass(self.right + other.right, self.total + other.total)

    def compute(self) -> Array:
        present = self.total > 0
        return (self.right / jnp.maximum(self.total, 1)).sum() / jnp.maximum(present.sum(), 1)


@flax.struct.dataclass
class OfOne(metrics.Collection):
    """Sums over a split whose images have one class."""

    accuracy: metrics.Accuracy
    top5: metrics.Average.from_output("top5")
    per_class: PerClass
    loss: metrics.Average.from_output("loss")


@flax.struct.dataclass
class OfSeveral(metrics.Collection):
    """Sums over a split whose images have several classes."""

    loss: metrics.Average.from_output("loss")


def make_eval_step(
    graph: tuple, prepare: Prepare, criterion: Callable = losses.softmax
) -> Callable:
    """Returns step(trainable, stats, frozen, batch) -> sums, scores of the batch.

    Scores are logits, labels and mask where numbers need those of the whole split, else empty.
    """

    def eval_step(trainable, stats, frozen, batch):
        model = put_together(graph, trainable, stats, frozen)
        ctx = Context(criterion=criterion)
        out = model(prepare(batch["image"], None), ctx)
        logits, labels = out["logits"], batch["label"]
        found = {"loss": model.method.loss(out, labels, ctx), "mask": batch["mask"]}
        scores = {"logits": logits, "labels": labels, "mask": batch["mask"]}
        if labels.ndim == 2:
            return OfSeveral.single_from_model_output(**found), scores
        classes = logits.shape[-1]
        found |= {"logits": logits, "labels": labels, "top5": hits(logits, labels, min(5, classes))}
        return OfOne.single_from_model_output(**found), scores if classes == 2 else {}

    return jax.jit(eval_step)


def evaluate(
    eval_step: Callable,
    weights: Mapping[str, Any],
    frozen: Mapping[str, Any],
    batches: Iterable[Mapping[str, Any]],
    mesh: Mesh,
) -> dict[str, float]:
    """Returns the numbers of a split; "accuracy", "loss" and "count" are always among them.

    `weights` holds "trainable" and "stats". Padding is masked, so every image counts once.
    """
    total, collected = None, []
    for batch in prefetch(iter(batches), mesh):
        sums, scores = eval_step(weights["trainable"], weights["stats"], frozen, batch)
        total = sums if total is None else total.merge(sums)
        collected.append(replicate(scores, mesh))
    numbers = {k: float(v) for k, v in total.compute().items()}
    loss = numbers.pop("loss")
    if collected[0]:
        parts = jax.device_get(collected)
        real = np.concatenate([p["mask"] for p in parts])
        logits, labels = (np.concatenate([p[k] for p in parts])[real] for k in ("logits", "labels"))
        if labels.ndim == 1:
            del numbers["top5"]  # of two classes
            numbers["auc"] = auc_of_two(logits, labels)
        else:
            numbers |= of_several(logits, labels)
    out = {k: v if k == "threshold" else 100 * v for k, v in numbers.items() if math.isfinite(v)}
    return {"accuracy": out["accuracy"], "loss": loss, "count": int(total.loss.count)} | out


def auc_of_two(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the area under the ROC curve of n 2 logits and n labels; NaN for a single class."""
    logits = logits.astype(np.float64)
    # What tells the classes apart is the difference: it orders images as probabilities would.
    return roc_auc(logits - logits[:, ::-1], np.eye(2, dtype=int)[labels])


def of_several(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Returns the numbers of n C logits and zeros and ones; classes without positives are left out.

    Raises: UserError if no image has a class.
    """
    if not targets.any():
        raise UserError("no image of the split has a label, so there is no mAP. Choose another.")
    found = targets.any(0)
    f1 = best_f1(np.exp(-np.logaddexp(0, -logits.astype(np.float64))), targets)
    ap = float(average_precision(logits, targets)[found].mean())
    return {
        "accuracy": ap,
        "map": ap,
        "recall": float(mean_recall(logits, targets)[found].mean()),
        **{f"f1_{k}": f1[k] for k in ("micro", "macro", "samples")},
        "threshold": f1["threshold"],
    }
