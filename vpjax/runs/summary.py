"""What a run says about itself: before it starts, and in its result."""

import importlib.metadata
import logging
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from vpjax.core.table import table
from vpjax.runs.advice import advice

if TYPE_CHECKING:
    from vpjax.runs.experiment import Experiment

log = logging.getLogger(__name__)
ROWS = 30  # of the parameter table


def opening(experiment: "Experiment") -> None:
    """Logs what is about to happen: parameters, data, weights, devices, kernels."""
    e, config = experiment, experiment.config
    log.info("%s", parameter_table(e))
    surroundings(e)
    log.info(
        "plan      %d steps of %d images (%d an epoch), %s, peak lr %.3g",
        e.plan.steps,
        e.plan.batch_size,
        e.plan.steps_per_epoch,
        config.optim.name,
        float(np.max(e.rate(np.arange(e.plan.steps)))),
    )
    warn(e)


def surroundings(experiment: "Experiment") -> None:
    """Logs data, weights, devices, kernels."""
    e, config = experiment, experiment.config
    for split, source in e.sources.items():
        log.info("data      %-5s %6d images  %s", split, len(source), source.name)
    log.info("          %d classes, preset %s", e.sources["train"].num_classes, e.preset)
    if e.loaded is None:
        log.info("weights   drawn from seed %d", config.seed)
    else:
        log.info("weights   %s  sha256 %s", e.loaded.path, e.loaded.sha256[:16])
        if e.loaded.resized:
            log.info("          resized %s", e.loaded.resized)
        if e.loaded.dropped:
            left = [n.removeprefix("unused/") for n in e.loaded.dropped]
            left = left[:4] + [f"{len(left) - 4} more"] * (len(left) > 4)
            log.info("          left out: %s", ", ".join(left))
    devices = e.mesh.devices.flat
    log.info("devices   %d x %s, mesh %s", len(devices), devices[0].device_kind, dict(e.mesh.shape))
    stored = sum(v.nbytes for v in e.frozen.values()) / 2**20
    own = sum(v.addressable_shards[0].data.nbytes for v in e.frozen.values()) / 2**20
    if own < stored:
        log.info("          frozen numbers split: %.4g of %.4g MiB on each", own, stored)
    log.info("compute   %s, attention %s, remat %s", config.dtype, e.attention, e.remat)


def warn(experiment: "Experiment") -> None:
    """Logs what is known to go wrong with such a config."""
    for text in advice(experiment.config, experiment.preset):
        log.warning("warning   %s", text)


def parameter_table(experiment: "Experiment") -> str:
    """Returns what trains: name, shape, count, and the share of all parameters."""
    trainable, frozen = experiment.parts.trainable, experiment.parts.frozen
    total = sum(v.size for v in (*trainable.values(), *frozen.values()))
    rows = [
        [name, " x ".join(map(str, v.shape)) or "scalar", f"{v.size:,}", percent(v.size, total)]
        for name, v in trainable.items()
    ]
    if len(rows) > ROWS:
        rest = sum(v.size for v in list(trainable.values())[ROWS:])
        more = [f"... and {len(rows) - ROWS} more", "", f"{rest:,}", percent(rest, total)]
        rows = rows[:ROWS] + [more]
    count = sum(v.size for v in trainable.values())
    rows.append(["trainable", "", f"{count:,}", percent(count, total)])
    rows.append(["frozen", "", f"{total - count:,}", percent(total - count, total)])
    return table(["parameter", "shape", "count", "share"], rows, "llrr")


def percent(part: int, whole: int) -> str:
    """Returns "1.63 %"."""
    return f"{100 * part / whole:.2f} %"


def cost(compiled: Any, seconds: float, batch_size: int) -> dict[str, float]:
    """Logs and returns what the compiled step needs, by the compiler's own count."""
    memory, out = compiled.memory_analysis(), {}
    flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
    out["gflop_per_image"] = flops / batch_size / 1e9
    if memory is not None:
        need = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        need += memory.output_size_in_bytes - memory.alias_size_in_bytes
        out |= {"memory_mib": need / 2**20, "temporary_mib": memory.temp_size_in_bytes / 2**20}
    log.info(
        "compiled  in %.1f s; a step needs %.4g MiB a device (%.4g of them temporary) and %.3g "
        "GFLOP an image",
        seconds,
        out.get("memory_mib", float("nan")),
        out.get("temporary_mib", float("nan")),
        out["gflop_per_image"],
    )
    return out


def facts(experiment: "Experiment") -> dict[str, Any]:
    """Returns all that could make another run's number differ."""
    e, config = experiment, experiment.config
    trainable = sum(v.size for v in e.parts.trainable.values())
    total = trainable + sum(v.size for v in e.parts.frozen.values())
    return {
        "method": config.method.name,
        "metric": "map" if e.sources["train"].multilabel else "accuracy",
        "trainable": trainable,
        "total": total,
        "percent": 100 * trainable / total,
        "weights": {
            "where": config.backbone.weights,
            "sha256": e.loaded.sha256 if e.loaded else None,
            "resized": e.loaded.resized if e.loaded else "",
        },
        "data": {n: {"name": s.name, "images": len(s)} for n, s in e.sources.items()},
        "data_fingerprint": e.sources["train"].fingerprint,
        "steps_per_epoch": e.plan.steps_per_epoch,
        "preset": e.preset,
        "on_features": e.features is not None,
        "dtype": config.dtype,
        "attention": e.attention,
        "remat": e.remat,
        "remat_segments": config.remat_segments,
        "seed": config.seed,
        "devices": [d.device_kind for d in e.mesh.devices.flat],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what computes."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def one_line(result: dict[str, Any]) -> str:
    """Returns "test accuracy 96.41 % (167 images), 1,781 trainable parameters (1.53 %)"."""
    split = "test" if "test_accuracy" in result else "val"
    text = f"step {result['step']}"
    if f"{split}_accuracy" in result:
        accuracy, count = result[f"{split}_accuracy"], result[f"{split}_count"]
        name = "mAP" if f"{split}_map" in result else "accuracy"
        text += f", {split} {name} {accuracy:.2f} % ({count} images)"
    if "trainable" in result:
        text += f", {result['trainable']:,} trainable parameters ({result['percent']:.2f} %)"
    return text


def compare_with_recorded(result: dict[str, Any], recorded: dict[str, Any] | None) -> None:
    """Logs whether an evaluation repeats what training recorded."""
    split = "test" if "test_accuracy" in result else "val"
    key = f"{split}_accuracy"
    if recorded is None or recorded["step"] != result["step"]:
        log.info("the run is not finished: nothing is recorded for step %d yet", result["step"])
    elif recorded[key] == result[key]:
        log.info("equal to the recorded %s accuracy", split)
    else:
        log.warning(
            "recorded %s accuracy is %r, this evaluation gives %r: other data, weights, device or "
            "versions; compare result.json",
            split,
            recorded[key],
            result[key],
        )
