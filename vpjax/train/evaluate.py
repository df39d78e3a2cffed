"""A split, evaluated once: every image counts, padding does not."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.struct
import jax
from clu import metrics
from jax.sharding import Mesh

from vpjax.context import Context
from vpjax.model import put_together
from vpjax.train.sharding import prefetch
from vpjax.train.step import Prepare


@flax.struct.dataclass
class Metrics(metrics.Collection):
    """Sums over a split: top-1 accuracy and loss of the images that are no padding."""

    accuracy: metrics.Accuracy
    loss: metrics.Average.from_output("loss")


def make_eval_step(graph: tuple, prepare: Prepare) -> Callable:
    """Returns step(trainable, stats, frozen, batch) -> Metrics of the batch."""

    def eval_step(trainable, stats, frozen, batch):
        model = put_together(graph, trainable, stats, frozen)
        ctx = Context()
        out = model(prepare(batch["image"], None), ctx)
        return Metrics.single_from_model_output(
            logits=out["logits"],
            labels=batch["label"],
            loss=model.method.loss(out, batch["label"], ctx),
            mask=batch["mask"],
        )

    return jax.jit(eval_step)


def evaluate(
    eval_step: Callable,
    weights: Mapping[str, Any],
    frozen: Mapping[str, Any],
    batches: Iterable[Mapping[str, Any]],
    mesh: Mesh,
) -> dict[str, float]:
    """Returns top-1 accuracy in percent, mean loss, and the number of images counted.

    `weights` holds "trainable" and "stats". Padding is masked, so every image counts once.
    """
    total = Metrics.empty()
    for batch in prefetch(iter(batches), mesh):
        total = total.merge(eval_step(weights["trainable"], weights["stats"], frozen, batch))
    out = {k: float(v) for k, v in total.compute().items()}
    count = int(total.accuracy.count)
    return {"accuracy": 100 * out["accuracy"], "loss": out["loss"], "count": count}
