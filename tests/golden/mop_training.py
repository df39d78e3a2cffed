"""The recorded run of MoP: 24 steps, validation after every epoch, the best epoch, and its resume.

Steps, optimizer, schedule, choice of the best and checkpoints are the library's. Adam divides tiny
gradients by their own size, so two right implementations drift apart; from the recorded state
of the checkpoint they do not.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import training
from tests.golden.clip import pixels
from tests.golden.comparison import NUMBER, Comparison, gradient, largest, numbers, summed
from tests.golden.mop import build
from tests.golden.record import Record
from vpjax.models.partition import ModelParts
from vpjax.train.early_stopping import EarlyStopping

# Parts of the sentence that states the tolerances, in the order of `Limits`.
STATED = (
    re.compile(rf"lr/tau {NUMBER}\b"),
    re.compile(rf"after step 2 atol {NUMBER}\b"),
    re.compile(rf"mid/final/checkpoint atol {NUMBER}\b"),
    re.compile(rf"losses rtol {NUMBER}\b"),
    re.compile(rf"stored checkpoint state: offsets atol {NUMBER}\b"),
)


class Limits(NamedTuple):
    """What a case allows."""

    rate: float  # learning rate and temperature
    second: float  # offsets after step 2
    drift: float  # offsets later on
    loss: float  # relative
    resumed: float  # offsets, from the recorded state


class Run(NamedTuple):
    """What trains, on what, and how closely it must agree."""

    arrays: Record
    parts: ModelParts
    optimizer: Any
    rate: Callable
    step: Callable
    evaluate: Callable
    plan: training.Plan
    limits: Limits


def compare_training(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield every step, every epoch, the checkpoint, and the resumed run."""
    meta.ignore("metadata", "checkpoint_keys", "ckpt_model_keys_head", "ckpt_n_model_keys")
    run = prepare(meta, arrays, folder)
    state = training.start(run.parts, run.optimizer)
    early, best = EarlyStopping(0), []
    for epoch in range(meta["conf"]["train"]["epochs"]):
        for i in range(epoch * run.plan.steps_per_epoch, (epoch + 1) * run.plan.steps_per_epoch):
            if i == meta["mid_index"]:
                yield Comparison("mid", offsets(state), arrays["out/offsets_mid"], run.limits.drift)
                yield from compare_undrifted(run, state, i)
            state, results = one(run, state, arrays["in/batch_indices"][i])
            yield from compare_step("", run, state, results, i, i)
            yield from compare_first(run, state)
        accuracy = validate(run, state)
        yield Comparison(f"accuracy {epoch}", accuracy, arrays["out/val_acc"][epoch], 1e-6)
        if early.better(accuracy, int(state.step)):
            best.append(f"best_epoch{epoch + 1}.pt")
            if epoch + 1 == meta["best_epoch"]:
                yield Comparison("best accuracy", accuracy, meta["best_val"], 1e-6)
                yield Comparison("best tau", arrays["out/tau"][i], meta["best_tau"], 1e-12)
                yield from compare_checkpoint(meta, run, state)
                kept = jax.device_get(state)
    if best != meta["checkpoints"] or meta["resumed_from"] != f"best_epoch{meta['best_epoch']}.pt":
        raise AssertionError(f"best epochs {best}, recorded {meta['checkpoints']}")
    yield Comparison("final", offsets(state), arrays["out/offsets_final"], run.limits.drift)
    yield from compare_resumed(run, training.saved_and_restored(kept), run.limits.drift)
    yield from compare_resumed(run, recorded_state(meta, arrays, kept), run.limits.resumed)


def prepare(meta: Record, arrays: Record, folder: Path) -> Run:
    """Return the run as the configuration has it."""
    conf, first = meta["conf"], "param/prompt_offsets_init"
    train, model = conf["train"], conf["model"]
    conf.ignore("dataset")
    for section in (model, train):  # weights and offsets are recorded
        section.ignore("clip_model", "use_semantic_init", "num_workers", "prefetch_factor")
    if arrays[first].shape[1] != model["K"]:
        raise AssertionError(f"{arrays[first].shape[1]} sub-prompts, K is {model['K']}")
    parts = build(meta, arrays, folder, first, **method_options(conf))
    batch_size, lr = train["batch_size"], float(train["lr"])  # YAML 1.1 reads 5e-4 as text
    settings = training.settings(
        name="adam", lr=lr, schedule="cosine", warmup_steps=train["warmup_steps"]
    )
    plan = training.Plan(meta["n_steps"], meta["steps_per_epoch"], batch_size)
    if plan.steps != train["epochs"] * plan.steps_per_epoch:
        raise AssertionError(f"{plan.steps} steps in {train['epochs']} epochs")
    if arrays["in/batch_indices"].shape != (plan.steps, batch_size):
        raise AssertionError(f"batches of {arrays['in/batch_indices'].shape}, not {batch_size}")
    optimizer, rate = training.make_optimizer(settings, parts.trainable, plan)
    step = training.make_step(parts, optimizer, plan.steps)
    limits = Limits(*(numbers(part, meta["tolerance"])[0] for part in STATED))
    evaluate = training.make_evaluation(parts)
    return Run(arrays, parts, optimizer, rate, step, evaluate, plan, limits)


def method_options(conf: Record) -> dict[str, Any]:
    """Return options of the method; what a configuration leaves out is as in the published code."""

    def option(name: str, default: Any) -> Any:
        section = next((s for s in ("model", "train") if name in conf[s]), None)
        return conf[section][name] if section else default

    return {
        "tau_start": option("em_tau_start", 1.0),
        "tau_end": option("em_tau_end", 0.3),
        "anneal": option("use_tau_annealing", True),
        "assignment": "hard" if option("use_hard_assignment", False) else "soft",
        "offset_reg_weight": option("offset_reg_weight", 0.001),
        "lambda_mixture": option("lambda_mixture", 0.5),
        "temp_cls": option("temp_cls", 0.07),
    }


def one(run: Run, state: training.State, indices: np.ndarray) -> tuple[training.State, dict]:
    """Take one step; the index -1 stands for an image that is not there."""
    real = indices >= 0
    images = run.arrays["in/train_images"][indices] * real[:, None, None, None]
    labels = np.where(real, run.arrays["in/train_labels"][indices], 0)
    return run.step(state, training.batch(pixels(images), labels) | {"mask": real})


def compare_step(
    prefix: str, run: Run, state: training.State, results: dict, i: int, step: int
) -> Iterator[Comparison]:
    """Yield learning rate, temperature and terms of the i-th recorded step."""
    lr, limit = training.learning_rate(run.rate, state, step), run.limits.rate
    yield Comparison(f"{prefix}lr {step}", lr, run.arrays[f"out/{prefix}lr"][i], limit)
    tau = run.arrays[f"out/{prefix}tau"]
    # As closely as float32 has the largest of the run, which the others are computed from.
    limit *= max(1.0, largest(run.arrays["out/tau"]))
    yield Comparison(f"{prefix}tau {step}", results["tau"], tau[i], limit)
    loss = run.limits.loss
    for name in ("loss", "loss_mixture", "loss_cls", "loss_reg"):
        if (recorded := run.arrays.get(f"out/{prefix}{name}")) is None:
            continue
        title = f"{prefix}{name} {step}"
        if name == "loss":
            terms = [results[part] for part in ("loss_mixture", "loss_cls", "loss_reg")]
            yield summed(title, results[name], recorded[i], terms, loss)
        else:
            # A cross entropy near 0 is the exponential of 714 times what drifts: of it no digit
            # stays, so it is held to the allowance of the loss that it is a part of.
            atol = loss * abs(run.arrays["out/loss"][i]) if name == "loss_cls" else 0.0
            yield Comparison(title, results[name], recorded[i], atol, loss)


def compare_undrifted(run: Run, state: training.State, i: int) -> Iterator[Comparison]:
    """Yield all terms of a step from the recorded offsets, without the loose rule of drift."""
    recorded = {"method/offsets": jnp.asarray(run.arrays["out/offsets_mid"])}
    state = dataclasses.replace(jax.tree.map(jnp.copy, state), trainable=recorded)
    _, results = one(run, state, run.arrays["in/batch_indices"][i])
    names = ("loss_mixture", "loss_cls", "loss_reg")
    values = {name: run.arrays[f"out/{name}"][i] for name in names}
    for name, value in values.items():
        title = f"{name} {i} from recorded offsets"
        yield Comparison(title, results[name], value, 0.0, run.limits.loss)
    total = run.arrays["out/loss"][i]
    title = f"loss {i} from recorded offsets"
    yield summed(title, results["loss"], total, values.values(), run.limits.loss)


def compare_first(run: Run, state: training.State) -> Iterator[Comparison]:
    """Yield the offsets after step 1, in which the rate is 0, and after step 2."""
    for count, atol in ((1, 0.0), (2, run.limits.second)):
        if state.step == count:
            recorded = run.arrays[f"out/offsets_after_step{count}"]
            yield Comparison(f"after {count}", offsets(state), recorded, atol)


def compare_checkpoint(meta: Record, run: Run, state: training.State) -> Iterator[Comparison]:
    """Yield the best epoch's state."""
    adam = next(part for part in state.opt if hasattr(part, "mu"))
    yield Comparison("best step", state.step, meta["best_step"], 0.0)
    yield Comparison("Adam's step", adam.count, meta["adam_step"], 0.0)
    drift, recorded = run.limits.drift, run.arrays["out/ckpt_offsets"]
    yield Comparison("offsets", offsets(state), recorded, drift)
    # Moments have the size of gradients, not of offsets.
    for name, ours in (("adam_exp_avg", adam.mu), ("adam_exp_avg_sq", adam.nu)):
        recorded = run.arrays[f"out/ckpt_{name}"]
        yield gradient(name, ours["method/offsets"], recorded, drift)


def compare_resumed(run: Run, state: training.State, atol: float) -> Iterator[Comparison]:
    """Yield the epochs after the best one, again, from a state."""
    accuracies = []
    for i, indices in enumerate(run.arrays["in/resume_batch_indices"]):
        number = int(state.step)
        state, results = one(run, state, indices)
        yield from compare_step("resume_", run, state, results, i, number)
        if not state.step % run.plan.steps_per_epoch:
            accuracies.append(validate(run, state))
    yield Comparison("resumed", offsets(state), run.arrays["out/resume_offsets_final"], atol)
    yield Comparison("resumed accuracy", accuracies, run.arrays["out/resume_val_acc"], 1e-6)


def recorded_state(meta: Record, arrays: Record, like: training.State) -> training.State:
    """Return the state of the recorded checkpoint."""
    named = functools.partial(dict.fromkeys, ("method/offsets",))
    get = lambda name: named(jnp.asarray(arrays[f"out/ckpt_{name}"]))  # noqa: E731
    count = jnp.int32(meta["adam_step"])

    def part(value):
        if hasattr(value, "mu"):
            return value._replace(count=count, mu=get("adam_exp_avg"), nu=get("adam_exp_avg_sq"))
        return jax.tree.map(jnp.asarray, value)

    opt = tuple(part(p) for p in like.opt)
    return dataclasses.replace(
        jax.tree.map(jnp.asarray, like),
        step=jnp.int32(meta["best_step"]),
        trainable=get("offsets"),
        opt=opt,
    )


def validate(run: Run, state: training.State) -> float:
    """Return the share of validation images that are right."""
    images, labels = run.arrays["in/val_images"], run.arrays["in/val_labels"]
    return run.evaluate(state, [training.batch(pixels(images), labels)])["accuracy"] / 100


def offsets(state: training.State) -> jax.Array:
    """Return what was learnt."""
    return state.trainable["method/offsets"]
