"""The attention implementation and rematerialisation of a run, chosen by measurement.

    attention="measured"   the training step is timed with each implementation that suits the
                           device, and the fastest is taken
    remat="auto"           of none, dots and full the first whose compiled step fits in the free
                           memory; nothing is run

Measuring compiles a step for each candidate and runs it a few times, so neither is the default: a
run of seconds would lose more than it gains. Measurements are kept for the next run on the same
kind of device, with the same versions and shapes, as <cache>/choices/<key>.json. The choice is kept
in the run's folder, choices.json, so that resumed training and evaluation compute the same.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vpjax.core import distributed, forms
from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder, write_json
from vpjax.models.factory import make_backbone
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.attention import AUTO, IMPLEMENTATIONS, MEASURED, candidates
from vpjax.nn.stack import REMAT
from vpjax.runs import config as configs
from vpjax.runs import summary
from vpjax.runs.experiment import Experiment, backbone_spec, method_spec
from vpjax.runs.program import training_step
from vpjax.train import sharding
from vpjax.train.evaluate import make_eval_step
from vpjax.train.memory import free_bytes, step_bytes

log = logging.getLogger(__name__)

LADDER = ("none", "dots", "full")  # remat, from the fastest to the one that needs least memory
WARM, STEPS = 1, 3  # steps before timing begins, and steps that are timed
_ROW = {"attention": str, "remat": str, "bytes": int, "ms": (*forms.NUMBER, None)}
CHOICE = {"facts": dict, "choice": [str], "rows": [_ROW]}  # as it is kept
# The config keys that decide the program of a step, besides device and versions.
PARTS = ("backbone.", "method.", "mesh.")
KEYS = ("attention", "remat", "remat_segments", "dtype", "match_reference_code", "optim.name")
KEYS += ("train.batch_size", "train.accumulate", "train.loss", "train.trainable")

Choice = tuple[str, str]  # attention, remat
Row = dict[str, Any]  # attention, remat, bytes a device, and ms a step or None: not timed


def needs_autotune(config: ConfigDict) -> bool:
    """Return whether a config leaves attention or remat to measurement."""
    return config.attention == MEASURED or config.remat == AUTO


def autotune(experiment: Experiment, folder: Path) -> Experiment:
    """Measure what a config leaves to measurement, and return the experiment with the choice.

    Args:
        experiment: of the run, from `prepare`.
        folder: of the run; the choice is kept there and in the cache.

    Raises:
        UserError: if several processes train, as they could choose differently.
    """
    if not needs_autotune(experiment.config) or experiment.inputs.cached:
        return experiment
    if distributed.count() > 1:
        raise UserError(
            "attention='measured' and remat='auto' are for one process, and this run has "
            f"{distributed.count()}. Measure with one, then put its choice into the config."
        )
    facts = conditions(experiment)
    if kept := read_choice(folder / "choices.json", facts):
        log.debug("choice    attention %s, remat %s, as the run began", *kept["choice"])
        return with_choice(experiment, *kept["choice"])
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_folder() / "choices" / f"{key}.json"
    known = (read_choice(path, facts) or {"rows": []})["rows"]
    choice = choose(experiment, known)
    log.debug("choice    attention %s, remat %s (measured: %s)", *choice, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in (path, folder / "choices.json"):
        write_json(place, {"choice": choice, "rows": known, "facts": facts})
    return with_choice(experiment, *choice)


def load_choice(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with the choice that the run in `folder` was trained with.

    It is unchanged if nothing was left to measurement, or the device or versions are others now.
    """
    if not needs_autotune(experiment.config) or experiment.inputs.cached:
        return experiment
    kept = read_choice(folder / "choices.json", conditions(experiment))
    return with_choice(experiment, *kept["choice"]) if kept else experiment


def conditions(experiment: Experiment) -> dict[str, Any]:
    """Return everything that a choice depends on, as JSON values."""
    config, device = configs.flat(experiment.config), experiment.mesh.devices.flat[0]
    named = {k: v for k, v in config.items() if k.startswith(PARTS) or k in KEYS}
    del named["backbone.weights"]
    found = {
        "device": f"{device.platform} {device.device_kind}",
        "versions": summary.versions(("jax", "jaxlib", "vpjax")),
        "config": named,
        "classes": len(experiment.classes.names),
        "mesh": dict(experiment.mesh.shape),
    }
    return json.loads(json.dumps(found, default=list))


def read_choice(path: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice and measurements in a file, if they are of these conditions, else None."""
    if not path.exists():
        return None
    try:
        kept = forms.read(path, CHOICE)
        if kept["facts"] != facts:
            return None
        attention, remat = kept["choice"]
        if attention not in IMPLEMENTATIONS or remat not in REMAT:
            raise ValueError(f"{kept['choice']} is no attention and remat")
        if any(row.keys() != {"attention", "remat", "bytes", "ms"} for row in kept["rows"]):
            raise ValueError("a row has other columns")
    except (forms.Damaged, ValueError) as e:
        log.warning("%s is damaged (%s: %s): measured again", path, type(e).__name__, e)
        return None
    return kept


def choose(experiment: Experiment, known: list[Row]) -> Choice:
    """Measure the candidates and return the best: attention and remat.

    Args:
        experiment: of the run.
        known: measurements that are not repeated; new ones are appended.

    Raises:
        UserError: if the step can be built with none of the candidates.
    """
    config, head_dim = experiment.config, merge(*experiment.parts).backbone.head_dim
    attentions = [experiment.attention]
    if config.attention == MEASURED:
        attentions = candidates(jnp.dtype(config.dtype), head_dim)
    ladder = LADDER if config.remat == AUTO else [config.remat]
    bench, free, found, refused = Bench(experiment), free_bytes(experiment.mesh), [], None
    for attention in attentions:
        for remat in ladder:
            try:
                row = find_row(known, attention, remat) or bench.row(attention, remat)
            except UserError as e:  # layers that cannot run twice, or segments with "none"
                refused = e
                continue
            known += [row] if row not in known else []
            found.append(row)
            if fits(row, free):
                break
    if refused and not found:
        raise refused
    for row in found if len(attentions) > 1 else []:
        if fits(row, free) and row["ms"] is None:
            row["ms"] = bench.milliseconds(row["attention"], row["remat"])
    for row in found:
        log.debug("choice    %s", describe(row, free))
    best = min(found, key=lambda row: (not fits(row, free), row["ms"] or math.inf, row["bytes"]))
    if not fits(best, free):
        log.warning("warning   no candidate fits in memory: taking the one that needs least")
    return best["attention"], best["remat"]


class Bench:
    """Compiles and times the training step of an experiment with other choices."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.programs: dict[Choice, Any] = {}

    @functools.cached_property
    def batch(self) -> dict[str, jax.Array]:
        """The first batch of training images, on the devices."""
        batches = self.experiment.inputs.loader("train").batches()
        with contextlib.closing(batches):
            return sharding.put_batch(next(batches), self.experiment.mesh)

    def program(self, *choice: str) -> Any:
        """Return the compiled step."""
        if choice not in self.programs:
            e = with_choice(self.experiment, *choice)
            lowered = training_step(e).lower(e.state, e.frozen, self.batch)
            self.programs[choice] = lowered.compile()
        return self.programs[choice]

    def row(self, attention: str, remat: str) -> Row:
        """Return the memory that the step needs, which is known without running it."""
        need = step_bytes(self.program(attention, remat))
        return {"attention": attention, "remat": remat, "bytes": need, "ms": None}

    def milliseconds(self, *choice: str) -> float | None:
        """Return the shortest time of a few steps; None if the device ran out of memory."""
        program, times = self.program(*choice), []
        state = jax.tree.map(jnp.copy, self.experiment.state)  # it is donated
        try:
            for _ in range(WARM + STEPS):
                begin = time.perf_counter()
                state, _ = jax.block_until_ready(program(state, self.experiment.frozen, self.batch))
                times.append(time.perf_counter() - begin)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            return None
        return round(1e3 * min(times[WARM:]), 3)


def find_row(rows: list[Row], *choice: str) -> Row | None:
    """Return the measurement of a choice; None if there is none."""
    return next((row for row in rows if (row["attention"], row["remat"]) == choice), None)


def fits(row: Row, free: int | None) -> bool:
    """Return whether a step fits in `free` bytes; True if those are not known."""
    return free is None or row["bytes"] <= free


def describe(row: Row, free: int | None) -> str:
    """Return a measurement as a line of the log."""
    text = f"attention {row['attention']}, remat {row['remat']}: {row['bytes'] / 2**20:.0f} MiB"
    text += "" if free is None else f" of {free / 2**20:.0f} free"
    text += "" if fits(row, free) else ", too much"
    return text if row["ms"] is None else f"{text}, {row['ms']:.1f} ms a step"


def with_choice(experiment: Experiment, attention: str, remat: str) -> Experiment:
    """Return the experiment with another attention and remat; its arrays are not copied.

    Args:
        experiment: from `prepare`.
        attention: an implementation of `vpjax.nn.attention`.
        remat: a name in `vpjax.nn.stack.REMAT`.
    """
    e, config = experiment._replace(remat=remat), experiment.config
    if attention == e.attention:
        return e
    specs = backbone_spec(config), method_spec(config)
    make = functools.partial(make_backbone, *specs, attention=attention)
    make = functools.partial(make, match_reference_code=config.match_reference_code)
    model = Model(nnx.eval_shape(lambda: make(key=jax.random.key(0))), merge(*e.parts).method)
    over = e.mesh if config.mesh.fsdp else None
    parts = e.parts._replace(graph=partition(model, config.train.trainable, over).graph)
    inputs = dataclasses.replace(e.inputs, graph=parts.graph)
    to_input = inputs.to_input(train=config.data.val_augmented)
    eval_step = make_eval_step(parts.graph, to_input, e.criterion)
    return e._replace(attention=attention, parts=parts, inputs=inputs, eval_step=eval_step)
