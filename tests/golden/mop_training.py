"""The recorded run of MoP: 24 steps, validation after every epoch, the best epoch, and its resume.

Steps, optimiser, schedule, choice of the best and checkpoints are the library's. Adam divides tiny
gradients by their own size, so two right implementations drift apart; from the recorded state
of the checkpoint they do not.
"""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.clip import pixels
from tests.golden.mop import build
from tests.golden.runner import Comparison
from vpjax.models.partition import ModelParts
from vpjax.runs import defaults
from vpjax.train import optim, step
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.evaluate import evaluate, make_eval_step
from vpjax.train.sharding import make_mesh

DRIFT = 5e-4


class Run(NamedTuple):
    """What trains, and on what."""

    arrays: dict
    parts: ModelParts
    optimiser: object
    rate: object
    step: object
    eval_step: object
    plan: optim.Plan


def compare_training(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields every step, every epoch, the checkpoint, and the resumed run."""
    run = prepare(meta, arrays, folder)
    state = step.init_state(run.parts.trainable, run.parts.stats, run.optimiser, 0)
    early = EarlyStopping(0)
    for epoch in range(meta["conf"]["train"]["epochs"]):
        for i in range(epoch * run.plan.steps_per_epoch, (epoch + 1) * run.plan.steps_per_epoch):
            if i == meta["mid_index"]:
                yield Comparison("mid", offsets(state), arrays["out/offsets_mid"], DRIFT)
                yield from compare_undrifted(run, state, i)
            state, numbers = one(run, state, arrays["in/batch_indices"][i])
            yield from compare_step("", run, state, numbers, i, i)
            yield from compare_first(state, arrays)
        accuracy = validate(run, state)
        yield Comparison(f"accuracy {epoch}", accuracy, arrays["out/val_acc"][epoch], 1e-6)
        if early.better(accuracy, int(state.step)) and epoch + 1 == meta["best_epoch"]:
            yield from compare_checkpoint(meta, arrays, state)
            kept = jax.device_get(state)
    yield Comparison("final", offsets(state), arrays["out/offsets_final"], DRIFT)
    yield from compare_resumed(run, saved_and_restored(kept), DRIFT)
    yield from compare_resumed(run, recorded_state(meta, arrays, kept), 1e-5)


def prepare(meta: dict, arrays: dict, folder: Path) -> Run:
    """Returns the run as the configuration has it."""
    conf = meta["conf"]["model"] | meta["conf"]["train"]
    options = {"tau_start": conf["em_tau_start"], "tau_end": conf["em_tau_end"]}
    options |= {k: conf[k] for k in ("lambda_mixture", "temp_cls")}
    parts = build(meta, arrays, folder, "param/prompt_offsets_init", **options)
    config = defaults.get_config().optim
    config.update(name="adam", lr=conf["lr"], lr_base_batch_size=0, weight_decay=0.0)
    config.warmup_steps = conf["warmup_steps"]
    plan = optim.Plan(meta["n_steps"], meta["steps_per_epoch"], conf["batch_size"])
    optimiser, rate = optim.make_optimiser(config, parts.trainable, plan)
    as_is = lambda images, key: images  # noqa: E731
    train = step.make_train_step(parts.graph, optimiser, as_is, plan.steps)
    return Run(arrays, parts, optimiser, rate, train, make_eval_step(parts.graph, as_is), plan)


def one(run: Run, state: step.State, indices: np.ndarray) -> tuple[step.State, dict]:
    """Takes one step; -1 stands for an image that is not there."""
    real = indices >= 0
    images = run.arrays["in/train_images"][indices] * real[:, None, None, None]
    labels = np.where(real, run.arrays["in/train_labels"][indices], 0).astype(np.int32)
    batch = {"image": pixels(images), "label": jnp.asarray(labels), "mask": jnp.asarray(real)}
    return run.step(state, run.parts.frozen, batch)


def compare_step(
    prefix: str, run: Run, state: step.State, numbers: dict, i: int, step: int
) -> Iterator[Comparison]:
    """Learning rate, temperature and terms of the i-th recorded step."""
    lr = optim.learning_rate(run.rate, state.opt, step)
    yield Comparison(f"{prefix}lr {step}", lr, run.arrays[f"out/{prefix}lr"][i], 1e-7)
    yield Comparison(f"{prefix}tau {step}", numbers["tau"], run.arrays[f"out/{prefix}tau"][i], 1e-7)
    for name in ("loss", "loss_mixture", "loss_cls", "loss_reg"):
        if (recorded := run.arrays.get(f"out/{prefix}{name}")) is not None:
            # A cross entropy near 0 is the exponential of 714 times what drifts: of it no digit
            # stays, so it is held to the allowance of the loss that it is a part of.
            atol = 1e-3 * abs(run.arrays["out/loss"][i]) if name == "loss_cls" else 0.0
            yield Comparison(f"{prefix}{name} {step}", numbers[name], recorded[i], atol, 1e-3)


def compare_undrifted(run: Run, state: step.State, i: int) -> Iterator[Comparison]:
    """All terms of a step from the recorded offsets, to the digit."""
    recorded = {"method/offsets": jnp.asarray(run.arrays["out/offsets_mid"])}
    state = dataclasses.replace(jax.tree.map(jnp.copy, state), trainable=recorded)
    _, numbers = one(run, state, run.arrays["in/batch_indices"][i])
    for name in ("loss", "loss_mixture", "loss_cls", "loss_reg"):
        value = run.arrays[f"out/{name}"][i]
        yield Comparison(f"{name} {i} from recorded offsets", numbers[name], value, 0.0, 1e-3)


def compare_first(state: step.State, arrays: dict) -> Iterator[Comparison]:
    """Offsets after step 1, in which the rate is 0, and 2."""
    for count, atol in ((1, 0.0), (2, 1e-6)):
        if state.step == count:
            recorded = arrays[f"out/offsets_after_step{count}"]
            yield Comparison(f"after {count}", offsets(state), recorded, atol)


def compare_checkpoint(meta: dict, arrays: dict, state: step.State) -> Iterator[Comparison]:
    """The best epoch's state."""
    adam = next(part for part in state.opt if hasattr(part, "mu"))
    yield Comparison("best step", state.step, meta["best_step"], 0.0)
    yield Comparison("Adam's step", adam.count, meta["adam_step"], 0.0)
    for name, ours in (
        ("offsets", offsets(state)),
        ("adam_exp_avg", adam.mu["method/offsets"]),
        ("adam_exp_avg_sq", adam.nu["method/offsets"]),
    ):
        recorded = arrays[f"out/ckpt_{name}"]
        # Moments have the size of gradients, not of offsets.
        atol = DRIFT * (1.0 if name == "offsets" else np.abs(recorded).max())
        yield Comparison(name, ours, recorded, atol)


def compare_resumed(run: Run, state: step.State, atol: float) -> Iterator[Comparison]:
    """The epochs after the best one, again, from a state."""
    for i, indices in enumerate(run.arrays["in/resume_batch_indices"]):
        number = int(state.step)
        state, numbers = one(run, state, indices)
        yield from compare_step("resume_", run, state, numbers, i, number)
    yield Comparison("resumed", offsets(state), run.arrays["out/resume_offsets_final"], atol)
    recorded = run.arrays["out/resume_val_acc"][-1]
    yield Comparison("resumed accuracy", validate(run, state), recorded, 1e-6)


def saved_and_restored(state: step.State) -> step.State:
    """Writes a checkpoint and reads it."""
    state = jax.tree.map(jnp.asarray, state)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Checkpoints(Path(folder))) as checkpoints,
    ):
        checkpoints.save(state, {})
        items, _ = checkpoints.restore(state)
    return step.State(**items["weights"], **items["optimiser"])


def recorded_state(meta: dict, arrays: dict, like: step.State) -> step.State:
    """Returns the state of the recorded checkpoint."""
    named = functools.partial(dict.fromkeys, ("method/offsets",))
    get = lambda name: named(jnp.asarray(arrays[f"out/ckpt_{name}"]))  # noqa: E731
    count = jnp.int32(meta["adam_step"])

    def part(value):
        if hasattr(value, "mu"):
            return value._replace(count=count, mu=get("adam_exp_avg"), nu=get("adam_exp_avg_sq"))
        return jax.tree.map(jnp.asarray, value)

    opt = tuple(part(p) for p in like.opt)
    return step.State(jnp.int32(meta["best_step"]), get("offsets"), {}, opt, jnp.asarray(like.key))


def validate(run: Run, state: step.State) -> float:
    """Returns the share of validation images that are right."""
    images, labels = run.arrays["in/val_images"], run.arrays["in/val_labels"].astype(np.int32)
    batch = {"image": np.asarray(pixels(images)), "label": labels}
    batch["mask"] = np.ones(len(labels), bool)
    weights = {"trainable": state.trainable, "stats": state.stats}
    found, _ = evaluate(run.eval_step, weights, run.parts.frozen, [batch], make_mesh(1))
    return found["accuracy"] / 100


def offsets(state: step.State) -> jax.Array:
    """What was learnt."""
    return state.trainable["method/offsets"]
