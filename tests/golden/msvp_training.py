"""Cases of MS-VP: training steps, schedules, metrics."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.golden.msvp_model import build, fill, gather, pixels
from tests.golden.runner import Comparison
from vpjax.runs import defaults
from vpjax.train import metrics, optim, step
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.evaluate import make_eval_step


def compare_training(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """The library's own steps on the published batches, the short last one padded."""
    model = build(meta)
    parts = fill(model, arrays)
    per_epoch, epochs = meta["steps_per_epoch"], meta["epochs_run"]
    batches = [padded(arrays, f"x{i}", f"label{i}", 6) for i in range(per_epoch)]
    checks = [padded(arrays, f"val_x{i}", f"val_label{i}", 5) for i in range(2)]
    plan = optim.Plan(meta["schedule_epochs"] * per_epoch, per_epoch, 6)
    settings = solver(meta)
    shipped = meta["scheduler"] == "onecycle"  # whose cycle never turned
    optimiser, rate = optim.make_optimiser(
        settings, parts.trainable, plan, match_reference_code=shipped
    )
    train_step = step.make_train_step(parts.graph, optimiser, lambda x, key: x, plan.steps)
    eval_step = make_eval_step(parts.graph, lambda x, key: x)
    state, limits = step.init_state(parts.trainable, parts.stats, optimiser, 0), meta["tolerance"]
    series = {n: arrays[f"out64/{n}"] for n in ("train_loss", "train_acc", "val_loss", "val_acc")}
    for epoch in range(epochs):
        used, logged = (float(rate((epoch + i) * per_epoch)) for i in (0, 1))
        yield Comparison(f"lr {epoch}", used, arrays["out64/lr_used"][epoch], 0.0, 1e-6)
        yield Comparison(f"lr after {epoch}", logged, arrays["out64/lr_logged"][epoch], 0.0, 1e-6)
        found = []
        for batch in batches:
            state, numbers = train_step(state, parts.frozen, batch)
            found.append((numbers["loss"], numbers["accuracy"]))
        ours = np.average(np.array(found), axis=0, weights=[b["mask"].sum() for b in batches])
        sums = [eval_step(state.trainable, state.stats, parts.frozen, b)[0] for b in checks]
        values = sums[0].merge(sums[1]).compute()
        ours = (*ours, values["loss"], 100 * values["accuracy"])
        for (name, recorded), value in zip(series.items(), ours, strict=True):
            yield Comparison(f"{name} {epoch}", value, recorded[epoch], 0.0, limits["metric_rtol"])
    for name, value in gather(model, arrays, f"out/after_epoch{epochs}/").items():
        ours = (state.trainable | state.stats)[name]
        yield Comparison(name, ours, value, limits["param_atol"], limits["param_rtol"])


def padded(arrays: dict, images: str, labels: str, size: int) -> dict[str, np.ndarray]:
    """Returns a batch of `size`, padded as the loader pads."""
    x, y = pixels(arrays[f"in/{images}"]), arrays[f"in/{labels}"].astype(np.int32)
    more = size - len(y)
    return {
        "image": np.pad(x, ((0, more), (0, 0), (0, 0), (0, 0))),
        "label": np.pad(y, (0, more)),
        "mask": np.arange(size) < len(y),
    }


def solver(meta: dict) -> Any:
    """Returns the optimiser's section of a config."""
    config, cycle = defaults.get_config().optim, meta["scheduler"] == "onecycle"
    config.update(
        name=meta["optimizer"], lr=meta["lr"] * (10 if cycle else 1), lr_base_batch_size=0
    )
    config.update(schedule=meta["scheduler"], per_epoch=not cycle, warmup_epochs=0.0)
    config.update(weight_decay=meta["weight_decay"], no_decay="", momentum=meta["momentum"])
    return config


def compare_schedules(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """Rates and momenta of every epoch or step."""
    recorded = {n.removeprefix("out64/"): v for n, v in arrays.items() if n.startswith("out64/")}
    per_epoch, rtol = meta["steps_per_epoch"], meta["tolerance"]["rtol"]
    config = defaults.get_config().optim
    config.update(lr=meta["lr"], lr_base_batch_size=0, warmup_epochs=0.0, schedule_by_epoch=True)

    def rates(kind, epochs, lr, match_reference_code=False):
        config.update(schedule=kind, lr=lr)
        plan = optim.Plan(epochs * per_epoch, per_epoch, 1)
        return np.asarray(
            optim.schedule(config, plan, match_reference_code)(np.arange(plan.steps + 1))
        )

    for kind, epochs in (("cosine", meta["epochs"]), ("step", meta["step_epochs"])):
        found = rates(kind, epochs, meta["lr"])[::per_epoch]
        used, final = recorded[f"{kind}_lr_used_per_epoch"], recorded[f"{kind}_lr_final"]
        yield Comparison(kind, found[:-1], used, 1e-6 * meta["lr"], rtol)
        yield Comparison(f"{kind} final", found[-1], final, 1e-6 * meta["lr"], rtol)
    steps = meta["epochs"] * per_epoch
    peak, end = meta["max_lr"], meta["max_lr"] * 1e-6
    found = rates("onecycle", meta["epochs"], peak)[:-1]
    momenta = optim.one_cycle(steps)[1](np.arange(steps))
    for kind in ("adam", "sgd"):
        yield Comparison(f"{kind} lr", found, recorded[f"onecycle_{kind}_lr_per_step"], end, rtol)
        name = f"onecycle_{kind}_momentum_per_step"
        yield Comparison(f"{kind} momentum", momenta, recorded[name], 0.0, rtol)
    shipped = np.full(steps + 1, recorded["onecycle_as_shipped_lr"])
    still = rates("onecycle", meta["epochs"], peak, match_reference_code=True)
    yield Comparison("as shipped", still, shipped, 0.0, rtol)
    beta1 = optim.one_cycle(steps, still=True)[1](steps // 2)
    yield Comparison("beta1 as shipped", beta1, recorded["onecycle_as_shipped_beta1"], 0.0, rtol)


def compare_metrics(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """Numbers of logits and labels, and when early stopping stops."""
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
    for name, value in metrics.macro(counts).items():
        yield Comparison(name, value, arrays[f"out64/{name}_macro"], **limit)
    early, stops = EarlyStopping(meta["early_stopping"]["patience"]), []
    for number, score in enumerate(arrays["in/es_scores"]):
        early.better(float(score), number)
        stops.append(early.stop)
    yield Comparison("early stopping", stops, arrays["out/es_stop"], 0.0)
