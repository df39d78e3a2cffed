"""Attention and recomputation, chosen for a run by what its own training step needs here.

    attention="measured"   steps with each implementation that suits the device are timed, and the
                           fastest is taken
    remat="auto"           of none, dots and full the first whose compiled step fits in the memory
                           that is free; nothing is run

Measuring compiles a step for each candidate and runs it a few times, so neither is the default: a
run of seconds would pay more than it gains. What was measured is kept for the next run on the same
kind of device, with the same versions and shapes, as <cache>/choices/<key>.json; what was taken is
kept in the run's own folder, choices.json, so that resuming and evaluation compute what training
computed.
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
from ml_collections import ConfigDict

from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder, write_json
from vpjax.models.partition import merge, partition
from vpjax.nn.attention import AUTO, IMPLEMENTATIONS, MEASURED, candidates
from vpjax.nn.stack import REMAT
from vpjax.runs import config as configs
from vpjax.runs import summary
from vpjax.runs.experiment import Experiment, abstract_model
from vpjax.runs.program import training_step
from vpjax.train import sharding
from vpjax.train.evaluate import make_eval_step
from vpjax.train.memory import free_bytes, step_bytes

log = logging.getLogger(__name__)

LADDER = ("none", "dots", "full")  # remat, from what is fastest to what needs least memory
WARM, STEPS = 1, 3  # steps that are not timed, and that are
# What decides the program of a step, besides device and versions.
PARTS = ("backbone.", "method.", "mesh.")
KEYS = ("attention", "remat", "remat_segments", "dtype", "match_reference_code", "optim.name")
KEYS += ("train.batch_size", "train.accumulate", "train.loss", "train.trainable")

Form = tuple[str, str]  # attention, remat
Row = dict[str, Any]  # attention, remat, bytes a device, and ms a step or None: was not run


def needs_autotune(config: ConfigDict) -> bool:
    """Whether a config leaves something to measuring."""
    return config.attention == MEASURED or config.remat == AUTO


def autotune(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with what suits it; the run's `folder` keeps that.

    Raises: UserError if several processes train, which could come to different answers.
    """
    if not needs_autotune(experiment.config) or experiment.inputs.cached:
        return experiment
    if distributed.count() > 1:
        raise UserError(
            "attention='measured' and remat='auto' are for one process, and this run has "
            f"{distributed.count()}. Measure on one, then name in the config what it has taken."
        )
    facts = conditions(experiment)
    if kept := read(folder / "choices.json", facts):
        log.info("choice    attention %s, remat %s, as the run began", *kept["taken"])
        return with_choice(experiment, *kept["taken"])
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_folder() / "choices" / f"{key}.json"
    known = (read(path, facts) or {"rows": []})["rows"]
    taken = decide(experiment, known)
    log.info("choice    attention %s, remat %s (measured: %s)", *taken, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in (path, folder / "choices.json"):
        write_json(place, {"taken": taken, "rows": known, "facts": facts})
    return with_choice(experiment, *taken)


def load_choice(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with what the run in `folder` was trained with, on such a device."""
    if not needs_autotune(experiment.config) or experiment.inputs.cached:
        return experiment
    kept = read(folder / "choices.json", conditions(experiment))
    return with_choice(experiment, *kept["taken"]) if kept else experiment


def conditions(experiment: Experiment) -> dict[str, Any]:
    """Return what a choice depends on, as JSON keeps it."""
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


def read(path: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is kept there for these conditions; None if there is nothing of use."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text())
        if kept["facts"] != facts:
            return None
        attention, remat = kept["taken"]
        if attention not in IMPLEMENTATIONS or remat not in REMAT:
            raise ValueError(f"{kept['taken']} is no choice")
        if any(row.keys() != {"attention", "remat", "bytes", "ms"} for row in kept["rows"]):
            raise ValueError("a row has other columns")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        log.warning("%s is damaged (%s: %s): measured again", path, type(e).__name__, e)
        return None
    return kept


def decide(experiment: Experiment, known: list[Row]) -> Form:
    """Return attention and remat. What is `known` is not measured again; what is new joins it.

    Raises: UserError if no form of the step can be.
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
                row = look_up(known, attention, remat) or bench.row(attention, remat)
            except UserError as e:  # layers that cannot run twice; segments, which "none" has not
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
        log.info("choice    %s", in_words(row, free))
    best = min(found, key=lambda row: (not fits(row, free), row["ms"] or math.inf, row["bytes"]))
    if not fits(best, free):
        log.warning("warning   no form of the step fits in memory: what needs least is taken")
    return best["attention"], best["remat"]


class Bench:
    """Compiles and times an experiment's training step in other forms, on its first batch."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.programs: dict[Form, Any] = {}

    @functools.cached_property
    def batch(self) -> dict[str, jax.Array]:
        batches = self.experiment.inputs.loader("train").batches()
        with contextlib.closing(batches):
            return sharding.put_batch(next(batches), self.experiment.mesh)

    def program(self, *form: str) -> Any:
        """Return the compiled step."""
        if form not in self.programs:
            e = with_choice(self.experiment, *form)
            lowered = training_step(e).lower(e.state, e.frozen, self.batch)
            self.programs[form] = lowered.compile()
        return self.programs[form]

    def row(self, attention: str, remat: str) -> Row:
        """Return what a form needs, which is known without running it."""
        need = step_bytes(self.program(attention, remat))
        return {"attention": attention, "remat": remat, "bytes": need, "ms": None}

    def milliseconds(self, *form: str) -> float | None:
        """Return the shortest of a few steps; None if memory was too short for one after all."""
        program, times = self.program(*form), []
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


def look_up(known: list[Row], *form: str) -> Row | None:
    """Return the row of a form, if it is known."""
    return next((row for row in known if (row["attention"], row["remat"]) == form), None)


def fits(row: Row, free: int | None) -> bool:
    """Whether a step can run in what is free; where that is not known, it is taken to."""
    return free is None or row["bytes"] <= free


def in_words(row: Row, free: int | None) -> str:
    """Return what is known of a form, for the log."""
    text = f"attention {row['attention']}, remat {row['remat']}: {row['bytes'] / 2**20:.0f} MiB"
    text += "" if free is None else f" of {free / 2**20:.0f} free"
    text += "" if fits(row, free) else ", too much"
    return text if row["ms"] is None else f"{text}, {row['ms']:.1f} ms a step"


def with_choice(experiment: Experiment, attention: str, remat: str) -> Experiment:
    """Return the experiment with these; its numbers stay where they are."""
    e, config = experiment._replace(remat=remat), experiment.config
    if attention == e.attention:
        return e
    model = abstract_model(config, len(e.classes.names), attention=attention, mesh=e.mesh)
    over = e.mesh if config.mesh.fsdp else None
    parts = e.parts._replace(graph=partition(model, config.train.trainable, over).graph)
    inputs = dataclasses.replace(e.inputs, graph=parts.graph)
    to_input = inputs.to_input(train=config.data.val_augmented)
    eval_step = make_eval_step(parts.graph, to_input, e.criterion)
    return e._replace(attention=attention, parts=parts, inputs=inputs, eval_step=eval_step)
