"""Checkpoints of a few numbers, for tests and trials of what reads them."""

import contextlib
from pathlib import Path

import jax.numpy as jnp

from vpjax.train.checkpoint import Checkpoints
from vpjax.train.step import State

META = {
    "version": "1",
    "config": {"optim.lr": 0.1},
    "backbone": {"name": "vit.ViT"},
    "preset": "digits",
    "classes": ["ant", "bee"],
    "early": {"patience": 0, "best": 61.5, "best_step": 4, "since": 0},
}


def state(step: int) -> State:
    """Return a state whose every number is its step."""
    arrays = {"method/head/bias": jnp.full(3, step, jnp.float32)}
    stats = {"method/mean": jnp.full((2, 3), step, jnp.float32)}
    key = jnp.full(2, step, jnp.uint32)
    return State(jnp.int32(step), arrays, stats, {"count": jnp.int32(step)}, key)


def saved(folder: Path, *steps: int) -> Path:
    """Save checkpoints."""
    with contextlib.closing(Checkpoints(folder / "last")) as checkpoints:
        for step in steps:
            checkpoints.save(state(step), META)
    return folder / "last"
