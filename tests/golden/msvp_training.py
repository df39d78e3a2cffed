"""Cases of MS-VP: training steps, schedules, metrics."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.golden import training
from tests.golden.comparison import Comparison, scaled
from tests.golden.msvp_model import build, fill, gather, pixels
from tests.golden.record import Record, under
from vpjax.train import metrics
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.parity import constant_momentum
from vpjax.train.schedules import one_cycle

PEAK = 10  # the peak of one cycle where the case has no max_lr, in learning rates


def compare_training(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield every epoch's numbers and the parameters after the last, by the library's own steps."""
    meta.expect("dropout", "all set to 0")
    model, epochs = build(meta), meta["epochs_run"]
    parts = fill(model, arrays)
    batches, checks = padded(arrays, ""), padded(arrays, "val_")
    per_epoch = len(batches)
    yield Comparison("steps of an epoch", per_epoch, meta["steps_per_epoch"], 0.0)
    plan = training.Plan(meta["schedule_epochs"] * per_epoch, per_epoch, len(batches[0]["label"]))
    settings = solver(meta)
    shipped = meta["scheduler"] == "onecycle"  # the published cycle never turned
    optimizer, rate = training.make_optimizer(settings, parts.trainable, plan, shipped)
    train_step = training.make_step(parts, optimizer, plan.steps)
    evaluate = training.make_evaluation(parts)
    state, limits = training.start(parts, optimizer), meta["tolerance"]
    floor = 1e-9 * meta["lr"]
    for epoch in range(epochs):
        used, logged = (float(rate((epoch + i) * per_epoch)) for i in (0, 1))
        yield Comparison(f"lr {epoch}", used, arrays["out64/lr_used"][epoch], floor, 1e-6)
        yield Comparison(f"lr after {epoch}", logged, arrays["out64/lr_logged"][epoch], floor, 1e-6)
        found = []
        for batch in batches:
            state, numbers = train_step(state, batch)
            found.append(numbers)
        trained, tested = training.averaged(found, int(state.step)), evaluate(state, checks)
        ours = {
            "train_loss": trained["loss"],
            "train_acc": trained["accuracy"],
            "val_loss": tested["loss"],
            "val_acc": tested["accuracy"],
        }
        for name, value in ours.items():
            recorded = arrays[f"out64/{name}"][epoch]
            yield Comparison(f"{name} {epoch}", value, recorded, 0.0, limits["metric_rtol"])
    for name, value in gather(model, arrays, f"out/after_epoch{epochs}/").items():
        ours = (state.trainable | state.stats)[name]
        yield scaled(name, ours, value, limits["param_atol"], limits["param_rtol"])


def padded(arrays: Record, prefix: str) -> list[dict[str, np.ndarray]]:
    """Return the batches of an epoch, each padded to the size of the first."""
    count = sum(name.startswith(f"in/{prefix}label") for name in arrays)
    size = len(arrays[f"in/{prefix}label0"])
    named = lambda kind, i: arrays[f"in/{prefix}{kind}{i}"]  # noqa: E731
    return [training.batch(pixels(named("x", i)), named("label", i), size) for i in range(count)]


def solver(meta: Record) -> Any:
    """Return the optimizer's settings, all taken from the case."""
    cycle = meta["scheduler"] == "onecycle"
    return training.settings(
        name=meta["optimizer"],
        lr=peak(meta) if cycle else meta["lr"],
        weight_decay=meta["weight_decay"],
        momentum=meta["momentum"],
        schedule=meta["scheduler"],
        schedule_by_epoch=not cycle,
    )


def peak(meta: Record) -> float:
    """Return the peak of a run's one cycle, as the published flags have it."""
    return meta.get("max_lr") or PEAK * meta["lr"]


def compare_schedules(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield learning rates and momenta of every epoch or step.

    The cycle that turns has the peak `max_lr`; the one as shipped ran without that flag, so its
    peak is the default one, ten learning rates.
    """
    recorded = under(arrays, "out64/")
    per_epoch, rtol, floor = meta["steps_per_epoch"], meta["tolerance"]["rtol"], 1e-6 * meta["lr"]

    def rates(kind: str, epochs: int, lr: float, shipped: bool = False) -> np.ndarray:
        by_epoch = kind != "onecycle"
        options = training.settings(schedule=kind, lr=lr, schedule_by_epoch=by_epoch)
        return training.schedule(options, training.Plan(epochs * per_epoch, per_epoch, 1), shipped)

    for kind, epochs in (("cosine", meta["epochs"]), ("step", meta["step_epochs"])):
        found = rates(kind, epochs, meta["lr"])[::per_epoch]
        used, final = recorded[f"{kind}_lr_used_per_epoch"], recorded[f"{kind}_lr_final"]
        yield Comparison(kind, found[:-1], used, floor, rtol)
        yield Comparison(f"{kind} final", found[-1], final, floor, rtol)
    steps = meta["epochs"] * per_epoch
    end = meta["max_lr"] * 1e-6
    found = rates("onecycle", meta["epochs"], meta["max_lr"])[:-1]
    momenta = one_cycle(steps)[1](np.arange(steps))
    for kind in ("adam", "sgd"):
        yield Comparison(f"{kind} lr", found, recorded[f"onecycle_{kind}_lr_per_step"], end, rtol)
        name = f"onecycle_{kind}_momentum_per_step"
        yield Comparison(f"{kind} momentum", momenta, recorded[name], 0.0, rtol)
    shipped = np.full(steps + 1, recorded["onecycle_as_shipped_lr"])
    still = rates("onecycle", meta["epochs"], PEAK * meta["lr"], shipped=True)
    yield Comparison("as shipped", still, shipped, 0.0, rtol)
    beta1 = constant_momentum(steps // 2)
    yield Comparison("beta1 as shipped", beta1, recorded["onecycle_as_shipped_beta1"], 0.0, rtol)


def compare_metrics(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield metrics of logits and labels, and when early stopping stops."""
    limit = {"atol": 0.0, "rtol": meta["tolerance"]["rtol"]}
    predicted = arrays["in/logits"].argmax(-1)
    counts = metrics.confusion(arrays["in/label"], predicted, meta["num_classes"])
    yield Comparison("confusion", counts, arrays["out/confusion_matrix"], 0.0)
    shares = counts / (counts.sum(1, keepdims=True) + 1e-8)
    yield Comparison("normalised", shares, arrays["out64/confusion_normalised"], **limit)
    of_class = 100 * metrics.class_accuracy(counts)
    yield Comparison("per class", of_class, arrays["out64/per_class_accuracy"], **limit)
    accuracy = 100 * np.diag(counts).sum() / counts.sum()
    yield Comparison("accuracy", accuracy, arrays["out64/accuracy"], **limit)
    averages = metrics.macro(arrays["in/label"], predicted, meta["num_classes"])
    for name, value in averages.items():
        yield Comparison(name, value, arrays[f"out64/{name}"], **limit)
    stopping = meta["early_stopping"]
    stopping.expect("mode", "max")
    stopping.expect("min_delta", 0.0)
    early, stops = EarlyStopping(stopping["patience"]), []
    for number, score in enumerate(arrays["in/es_scores"]):
        early.better(float(score), number)
        stops.append(early.stop)
    yield Comparison("early stopping", stops, arrays["out/es_stop"], 0.0)
