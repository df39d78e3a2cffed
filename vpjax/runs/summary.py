"""What a run logs before it starts, and the facts in its result."""

import contextlib
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vpjax.core.logs import fitted
from vpjax.data.source import Source
from vpjax.models.partition import trainable_line, trainable_table
from vpjax.runs import provenance
from vpjax.runs.advice import advice
from vpjax.runs.experiment import Experiment

log = logging.getLogger(__name__)


def log_opening(experiment: Experiment) -> None:
    """Log what will be trained: a header on the screen, all about it in log.txt, and warnings."""
    e, config = experiment, experiment.config
    for line in header(e):
        log.info("%s", fitted(line))
    log.debug("%s", trainable_table(e.parts))
    log_setup(e)
    log.debug(
        "plan      %d steps of %d images (%d an epoch), %s, peak lr %.3g",
        e.plan.steps,
        e.plan.batch_size,
        e.plan.steps_per_epoch,
        config.optim.name,
        peak(e),
    )
    log_advice(e)


def header(experiment: Experiment) -> list[str]:
    """Return what a run is, in at most eight lines: the screen shows them, see `logs.fitted`."""
    e, config = experiment, experiment.config
    numbers = ", ".join(f"{split} {len(source):,}" for split, source in e.sources.items())
    train = e.sources["train"]
    kind = f", {e.loaded.kind}" if e.loaded and e.loaded.kind else ""
    where = config.backbone.weights if e.loaded else f"random, from seed {config.seed}"
    devices = e.mesh.devices.flat
    lines = [
        f"run       {config.method.name}, {trainable_line(e.parts)}",
        f"data      {train.name.partition('[')[0]}, {len(e.classes.names)} classes: {numbers}",
    ]
    if e.made:
        made = " and ".join(e.made)
        seed = config.data.holdout_seed
        lines.append(f"splits    {made} taken from train by class, seed {seed}: splits.csv")
        lines.append(f"counts    {', '.join(counts(e))}")
    lines += [
        f"weights   {_tail(where)}{kind}",
        f"backbone  {backbone_line(e)}",
        f"plan      {training(e)}, {config.dtype}, {len(devices)} x {devices[0].device_kind}",
        f"program   {provenance.program_line()}",
    ]
    return lines


def backbone_facts(experiment: Experiment) -> dict[str, Any]:
    """Return class, number of layers, width, pixels of a patch and grid of the backbone."""
    backbone = nnx.merge(*experiment.parts.graph).backbone
    return {
        "name": experiment.config.backbone.name,
        "layers": len(backbone.layers),
        "dim": backbone.dim,
        "patch_size": list(backbone.patch_size),
        "grid": list(backbone.grid),
    }


def backbone_line(experiment: Experiment) -> str:
    """Return "vit.ViT, 12 layers of 384, 56x56 pixels in 4x4 patches of 14x14"."""
    facts = backbone_facts(experiment)
    pixels, grid, patch = (
        f"{h}x{w}" for h, w in (experiment.image_size, facts["grid"], facts["patch_size"])
    )
    layers = f"{facts['layers']} layers, width {facts['dim']}"
    return f"{facts['name']}, {layers}, {pixels} pixels in {grid} patches of {patch}"


def training(experiment: Experiment) -> str:
    """Return "240 steps of 32 (12 an epoch), sgd, lr 0.25", or that there is no training."""
    plan = experiment.plan
    if not plan.steps:
        return "no training"
    text = f"{plan.steps} steps of {plan.batch_size} ({plan.steps_per_epoch} an epoch)"
    return f"{text}, {experiment.config.optim.name}, lr {peak(experiment):.3g}"


def counts(experiment: Experiment) -> list[str]:
    """Return "cat 14/3/3" for every class: its images in each split."""
    each = [source.counts() for source in experiment.sources.values()]
    names = experiment.classes.names
    return [f"{name} {'/'.join(str(n[i]) for n in each)}" for i, name in enumerate(names)]


def peak(experiment: Experiment) -> float:
    """Return the highest learning rate of a run."""
    return float(np.max(experiment.rate(np.arange(max(1, experiment.plan.steps)))))


def _tail(path: str, columns: int = 45) -> str:
    """Return the end of a path, which says more than its beginning."""
    return path if len(path) <= columns else f"…{path[1 - columns :]}"


def log_setup(experiment: Experiment) -> None:
    """Log data, weights, devices, and the implementation of attention, to log.txt."""
    e, config = experiment, experiment.config
    if e.made:
        log.debug("counts    %s of %s", ", ".join(counts(e)), "/".join(e.sources))
    for split, source in e.sources.items():
        log.debug("data      %-5s %6d images  %s", split, len(source), source.name)
    log.debug("          %d classes, preset %s", len(e.classes.names), e.preset)
    if e.loaded is None:
        log.debug("weights   random, from seed %d", config.seed)
    else:
        log.debug("weights   %s  sha256 %s", e.loaded.path, e.loaded.sha256[:16])
        if e.loaded.kind:
            log.debug("          %s, as backbone %s", e.loaded.kind, config.backbone.name)
        if e.loaded.chosen:
            log.debug("          %s", e.loaded.chosen)
        if e.loaded.resized:
            log.debug("          resized %s", e.loaded.resized)
        if e.loaded.dropped:
            left = [n.removeprefix("unused/") for n in e.loaded.dropped]
            left = left[:4] + [f"{len(left) - 4} more"] * (len(left) > 4)
            log.debug("          left out: %s", ", ".join(left))
    devices = e.mesh.devices.flat
    log.debug(
        "devices   %d x %s, mesh %s", len(devices), devices[0].device_kind, dict(e.mesh.shape)
    )
    stored = sum(v.nbytes for v in e.frozen.values()) / 2**20
    own = sum(v.addressable_shards[0].data.nbytes for v in e.frozen.values()) / 2**20
    if own < stored:
        log.debug("          frozen weights split: %.4g of %.4g MiB on each device", own, stored)
    log.debug("compute   %s, attention %s, remat %s", config.dtype, e.attention, e.remat)


def log_advice(experiment: Experiment) -> None:
    """Log warnings about choices of the config that are known to go wrong."""
    for text in advice(experiment.config, experiment.preset):
        log.warning("warning   %s", text)


def values(numbers: Mapping[str, float], **more: float) -> str:
    """Return "loss 0.4312, accuracy 93.1, lr 0.01" for a line of log.txt."""
    return ", ".join(f"{k} {float(v):.5g}" for k, v in (dict(numbers) | more).items())


def log_cost(compiled: Any, seconds: float, batch_size: int) -> dict[str, float]:
    """Log and return what a compiled step needs, as the compiler counts it.

    Args:
        compiled: the step.
        seconds: that compiling took.
        batch_size: images that the counted work is for.

    Returns:
        "gflop_per_image", and on devices that report it "memory_mib" and "temporary_mib".
    """
    memory, out = compiled.memory_analysis(), {}
    flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
    out["gflop_per_image"] = flops / batch_size / 1e9
    if memory is not None:
        need = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        need += memory.output_size_in_bytes - memory.alias_size_in_bytes
        out |= {"memory_mib": need / 2**20, "temporary_mib": memory.temp_size_in_bytes / 2**20}
    log.debug(
        "compiled  in %.1f s; a step needs %.4g MiB a device (%.4g of them temporary) and %.3g "
        "GFLOP an image",
        seconds,
        out.get("memory_mib", float("nan")),
        out.get("temporary_mib", float("nan")),
        out["gflop_per_image"],
    )
    return out


def result_facts(experiment: Experiment) -> dict[str, Any]:
    """Return everything that could make the metrics of another run differ, as JSON values."""
    e, config = experiment, experiment.config
    trainable = sum(v.size for v in e.parts.trainable.values())
    total = trainable + sum(v.size for v in e.parts.frozen.values())
    return {
        "method": config.method.name,
        "metric": e.metric,
        "trainable": trainable,
        "total": total,
        "percent": 100 * trainable / total,
        "weights": {
            "where": config.backbone.weights,
            "sha256": e.loaded.sha256 if e.loaded else None,
            "kind": e.loaded.kind if e.loaded else "",
            "chosen": e.loaded.chosen if e.loaded else "",
            "resized": e.loaded.resized if e.loaded else "",
        },
        "data": {split: split_facts(source) for split, source in e.sources.items()},
        "data_fingerprint": e.sources["train"].fingerprint,
        "steps_per_epoch": e.plan.steps_per_epoch,
        "preset": e.preset,
        "image_size": list(e.image_size),
        "backbone": backbone_facts(e),
        "cached_features": e.inputs.cached,
        "dtype": config.dtype,
        "attention": e.attention,
        "remat": e.remat,
        "remat_segments": config.remat_segments,
        "seed": config.seed,
        "devices": [d.device_kind for d in e.mesh.devices.flat],
        "versions": versions(),
        "command": provenance.command(),
        "commit": provenance.commit(),
        "peak_memory_mib": peak_memory(),
    }


def peak_memory() -> dict[str, float | None]:
    """Return the most memory, in MiB, that this process has had: of the host, and of a device.

    None: the system does not tell.
    """
    host = None
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "host": host and round(host, 1),
        "device": device and round(device / 2**20, 1),
    }


def split_facts(source: Source) -> dict[str, Any]:
    """Return what a result says of a split."""
    return {"name": source.name, "images": len(source), "content": source.content}


def metrics_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a result that says how good the model is, and how large."""
    kept = ("metric", "step", "trainable", "total", "percent")
    splits = ("val_", "test_", "best_val_")
    return {k: v for k, v in result.items() if k in kept or k.startswith(splits)}


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "vpjax")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages; "not installed" where there is none."""
    out = {"python": platform.python_version()}
    for name in packages:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def reported_split(result: dict[str, Any]) -> str:
    """Return the split that a result reports: "test", or else "val"."""
    return "test" if f"test_{result.get('metric', 'accuracy')}" in result else "val"


def one_line(result: dict[str, Any]) -> str:
    """Return "step 240, test accuracy 96.41 % (167 images), 1,781 trainable ... (1.53 %)"."""
    split, metric = reported_split(result), result.get("metric", "accuracy")
    text = f"step {result['step']}"
    if f"{split}_{metric}" in result:
        name = "mAP" if metric == "map" else metric
        text += f", {split} {name} {result[f'{split}_{metric}']:.2f} %"
        if (count := result.get(f"{split}_count")) is not None:
            text += f" ({count} images)"
    if "trainable" in result:
        text += f", {result['trainable']:,} trainable parameters ({result['percent']:.2f} %)"
    return text


def _other_images(now: dict[str, Any], there: dict[str, Any] | None) -> str:
    """Return in what a split differs from the one of a result; "" where in nothing."""
    if there is None:
        return "it is not recorded"
    if now["images"] != there["images"]:
        return f"{there['images']:,} images there, {now['images']:,} now"
    same = now["content"] == there.get("content", now["content"])  # not of earlier versions
    return "" if same else "other images or labels, though their names may be the same"


def log_comparison(result: dict[str, Any], recorded: dict[str, Any] | None) -> None:
    """Log whether an evaluation gives the metric that training recorded.

    Args:
        result: of the evaluation.
        recorded: result.json of the run; None if it has not finished.
    """
    split, metric = reported_split(result), result["metric"]
    key = f"{split}_{metric}"
    if recorded is None or recorded["step"] != result["step"]:
        log.info("the run is not finished: no metric is recorded for step %d yet", result["step"])
    elif differ := _other_images(result["data"][split], recorded.get("data", {}).get(split)):
        log.warning(
            "the %s split is not the one that the run was evaluated on: %s. Its recorded %s, %r, "
            "cannot be compared with this one, %r",
            *(split, differ, metric, recorded[key], result[key]),
        )
    elif recorded[key] == result[key]:
        log.info("equal to the recorded %s %s", split, metric)
    else:
        log.warning(
            "the recorded %s %s is %r, this evaluation gives %r: other data, weights, device or "
            "versions; compare result.json",
            split,
            metric,
            recorded[key],
            result[key],
        )
