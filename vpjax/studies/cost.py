"""The estimate of `tune --dry_run`: trials, steps, images, GFLOP, hours.

    python main.py tune --dry_run --config configs/vtab.py:method=vpt_deep,task=svhn

Nothing is trained and no weights are read. The step of each kind of trial is compiled for a few
images, which counts its operations; the first is also timed. Where trials are finished, their time
is used instead.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.core.table import table
from vpjax.data import preset
from vpjax.runs import config as configs
from vpjax.runs import program
from vpjax.runs.experiment import Experiment, make_plan, open_split, prepare, preset_name
from vpjax.runs.features import backbone_values, with_cached_features
from vpjax.studies import trials
from vpjax.studies.plan import Plan
from vpjax.studies.trials import Trial
from vpjax.train.sharding import put_batch

log = logging.getLogger(__name__)

NOTE = (
    "Hours are for trials one by one on the devices of this machine. Final runs are estimated with "
    "the first point of the grid until the choice is made."
)
IMAGES = 8  # for each device, in the compiled step
# Keys of a config that do not change what a step costs.
FREE = ("seed", "optim.lr", "optim.min_lr", "optim.weight_decay", "optim.momentum")
FREE += ("optim.bias_multiplier", "optim.head_multiplier", "optim.layer_decay", "optim.clip_norm")
NOT_COUNTED = ("data.", "study.", "draw")


class Work(NamedTuple):
    """The cost of an image in a training step; with cached features, of computing them once."""

    gflop: float
    seconds: float
    cached: bool = False


class Part(NamedTuple):
    """The cost of trials that are alike."""

    what: str
    trials: int
    steps: int
    images: int  # through the backbone, over all trials
    gflop: float  # for each image
    hours: float


def dry_run(plans: Iterable[Plan]) -> list[Part]:
    """Log and return the cost of the plans whose data sets are prepared on this machine."""
    parts, known = [], {}
    for plan in plans:
        log.info("\n%s", describe(plan))
        params = trials.grid(plan.config)[0] if plan.choice is None else plan.choice["params"]
        final = trials.finals(plan.config, params, plan.folder)
        try:
            for what, found in (("select", plan.selection), ("final", final)):
                parts += [part(what, kind, known) for kind in kinds(found)]
        except UserError as e:  # most of the time: the data are not prepared yet
            log.warning("cost      cannot be estimated: %s", e)
    if parts:
        log.info("\n%s\n\n%s", as_text(parts), NOTE)
    return parts


def describe(plan: Plan) -> str:
    """Return the data, the grid and the number of trials as text."""
    config = plan.config
    axes: dict[str, list] = {}
    for params in trials.grid(config):
        for key, value in params.items():
            axes.setdefault(key, []).append(value)
    lines = [f"data      {config.data.name}: select on {config.data.val}, test {config.data.test}"]
    for key, values in axes.items():
        lines.append(f"grid      {key}: {', '.join(map(str, dict.fromkeys(values)))}")
    done = sum(t.outcome is not None for t in plan.selection)
    seeds = ", ".join(map(str, config.study.seeds))
    lines.append(f"trials    {len(plan.selection)} to choose from ({done} finished), seeds {seeds}")
    return "\n".join(lines)


def kinds(found: Sequence[Trial]) -> list[list[Trial]]:
    """Return groups of trials whose steps cost the same."""
    out: dict[str, list[Trial]] = {}
    for trial in found:
        out.setdefault(_kind(trial.config), []).append(trial)
    return list(out.values())


def _kind(config: ConfigDict) -> str:
    flat = configs.flat(config).items()
    return str({k: v for k, v in flat if k not in FREE and not k.startswith(NOT_COUNTED)})


def part(what: str, alike: Sequence[Trial], known: dict[str, Work]) -> Part:
    """Return the cost of trials of one kind; `known` keeps measurements by kind."""
    config, key = alike[0].config, _kind(alike[0].config)
    if key not in known:
        known[key] = measure(config, next(iter(known.values()), None))
    work, train = known[key], len(open_split(config, "train"))
    plan = make_plan(config, train)
    once = train + (len(open_split(config, "val")) if config.data.val else 0)
    images = once if work.cached else plan.steps * plan.batch_size * len(alike)
    seconds = images * work.seconds
    times = [t.outcome["seconds"] for t in alike if (t.outcome or {}).get("status") == "finished"]
    if times:
        seconds = float(np.mean(times)) * len(alike)
    name = f"{what}, {len(alike)} trials such as {alike[0].name}"
    return Part(name, len(alike), plan.steps, images, work.gflop, seconds / 3600)


def measure(config: ConfigDict, rate: Work | None = None) -> Work:
    """Compile the step of a config for a few images.

    It is timed, unless there is a measurement, `rate`, whose seconds for each GFLOP can be used.
    """
    experiment = with_cached_features(prepare(_small(config)))
    images = IMAGES * experiment.mesh.size
    batch = put_batch(_batch(experiment, images), experiment.mesh)
    if cached := experiment.inputs.cached:
        arguments = (backbone_values(experiment.frozen), batch)
        compiled = experiment.inputs.forward.lower(*arguments).compile()
    else:
        arguments = (experiment.state, experiment.frozen, batch)
        compiled = program.training_step(experiment).lower(*arguments).compile()
    gflop = (compiled.cost_analysis() or {}).get("flops", 0.0) * experiment.mesh.size / images / 1e9
    if rate is not None and rate.gflop:
        return Work(gflop, gflop * rate.seconds / rate.gflop, cached)
    out = jax.block_until_ready(compiled(*arguments))
    if not cached:
        arguments = (out[0], *arguments[1:])  # the first state was donated
    begin = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return Work(gflop, (time.perf_counter() - begin) / images, cached)


def _small(config: ConfigDict) -> ConfigDict:
    """Return the config for a few images, with random weights."""
    config = config.copy_and_resolve_references()
    config.data.preset = preset_name(config)
    config.data.augment = ""  # is part of it now
    config.backbone.weights, config.train.accumulate = "", 1
    config.train.batch_size = config.data.eval_batch_size = IMAGES * jax.device_count()
    config.train.remainder = "keep"
    return config


def _batch(experiment: Experiment, images: int) -> dict[str, np.ndarray]:
    """Return a black batch in the shape that the loader makes."""
    source, chosen = experiment.sources["train"], preset(experiment.preset)
    shape, dtype = source.image_shape, np.uint8
    if chosen.on_host(shape, experiment.image_size):
        shape, dtype = (*experiment.image_size, shape[2]), chosen.host_dtype()
    labels = np.zeros((images, *source.label_shape), np.int32)
    mask = np.ones(images, bool)
    return {"image": np.zeros((images, *shape), dtype), "label": labels, "mask": mask}


def as_text(parts: Sequence[Part]) -> str:
    """Return the parts and their sum as a table."""
    head = ["what", "steps a trial", "images", "GFLOP an image", "PFLOP", "hours"]
    lines = []
    for p in parts:
        peta = p.images * p.gflop / 1e6
        numbers = [f"{p.steps:,}", f"{p.images:,}", f"{p.gflop:.3g}", f"{peta:.3g}"]
        lines.append([p.what, *numbers, short(p.hours)])
    peta = sum(p.images * p.gflop for p in parts) / 1e6
    images, hours = sum(p.images for p in parts), sum(p.hours for p in parts)
    lines.append(["all", "", f"{images:,}", "", f"{peta:.3g}", short(hours)])
    return table(head, lines, "lr")


def short(hours: float) -> str:
    """Return hours with at least two digits and no exponent."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
