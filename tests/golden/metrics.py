"""Cases of losses and metrics: recorded logits and labels go in, numbers come out."""

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tests.golden.comparison import Comparison
from tests.golden.record import NotUnderstood, Record, nearest
from vpjax.train import losses, metrics
from vpjax.train.evaluate import in_top_k


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield metrics and losses of every recorded group of logits and labels."""
    meta.ignore("case")
    atol = meta["tolerance"]
    for group, expected in meta["expected"].items():
        if group == "multilabel":
            scores, targets = arrays["in/multilabel_scores"], arrays["in/multilabel_targets"]
            found, per_class = multilabel(scores, targets)
            for name, value in per_class.items():
                yield Comparison(name, value, arrays[f"out/multilabel_{name}"], atol)
        else:
            if not group.startswith("classes_"):
                raise NotUnderstood(f"group {group!r} of metrics")
            classes = group.removeprefix("classes_")
            found = single(arrays[f"in/logits_{classes}"], arrays[f"in/label_{classes}"])
        for name, value in expected.items():
            if name not in found:
                raise NotUnderstood(f"metric {name!r}{nearest(name, found)}")
            # In absolute terms float32 cannot hold it: beside 25, the next number is 2e-6 away.
            rtol = atol if name.endswith("loss") else 0.0
            yield Comparison(f"{group} {name}", found[name], value, atol, rtol)


def single(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return all metrics of images with one class; class weights are 1, 1.5, 2, ..."""
    classes = logits.shape[1]
    weights = 1 + 0.5 * np.arange(classes, dtype=np.float32)
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    loss = lambda name, w=None: float(losses.criterion(name, w)(x, y).mean())  # noqa: E731
    top = min(5, classes)
    return {
        "top1": float(in_top_k(x, y, 1).mean()),
        f"top{top}": float(in_top_k(x, y, top).mean()),
        "rocauc": metrics.roc_auc(logits, np.eye(classes, dtype=int)[labels]),
        "softmax_loss": loss("softmax"),
        "sigmoid_loss": loss("sigmoid"),
        "weighted_softmax_loss": loss("softmax", weights),
        "weighted_sigmoid_loss": loss("sigmoid", weights),
    }


def multilabel(scores: np.ndarray, targets: np.ndarray) -> tuple[dict, dict]:
    """Return all metrics of images with several classes, and those of each class."""
    ap, ar = metrics.average_precision(scores, targets), metrics.mean_recall(scores, targets)
    found = metrics.best_f1(scores, targets) | {"mAP": ap.mean(), "mAR": ar.mean()}
    return found, {"ap": ap, "ar": ar}
