"""Checkpoints with Orbax: what changes while training, and nothing else.

    <workdir>/checkpoints/last/<step>/weights     trainable part and running statistics
                                      optimizer   its state, the step, the key
                                      meta        config, backbone, digests, early stopping

The frozen backbone is named by its file's sha256, never copied. Orbax keeps no checksums and
restores a flipped bit without a word, so each item's sha256 goes into `meta` and is compared when
read. A checkpoint that is damaged is named and the one before it used.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.train import sharding
from vpjax.train.step import State

log = logging.getLogger(__name__)


class Checkpoints:
    """A folder of checkpoints, the newest `keep` of them; saves in the background."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, **_by_itself(self.folder)
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: State, meta: dict[str, Any]) -> None:
        """Save in the background; `wait` or `close` before the process ends."""
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = parts(state)
        if (
            distributed.is_single()
        ):  # Orbax wants numbers that other processes have no part in as numpy
            items = jax.device_get(items)
        # Of several processes each saves its part: all call this, at the same step.
        meta = meta | {"step": step, "digests": {n: digest(v) for n, v in items.items()}}
        saves = {n: ocp.args.StandardSave(v) for n, v in items.items()}
        self.manager.save(
            step, args=ocp.args.Composite(**saves, meta=ocp.args.JsonSave(meta)), force=True
        )

    def restore(
        self, like: State, only_weights: bool = False
    ) -> tuple[dict[str, Any], dict] | None:
        """Return the items of the newest intact checkpoint and its meta; None if there is none.

        `like` gives shapes, dtypes and shardings. Damaged checkpoints are logged and passed over.
        Raises: UserError if there are checkpoints but none is intact.
        """
        self.manager.wait_until_finished()
        steps = sorted(self.manager.all_steps(), reverse=True)
        wanted = {n: v for n, v in parts(like).items() if n == "weights" or not only_weights}
        problems = []
        for step in steps:
            try:
                return self._restore(step, wanted)
            except Exception as e:  # Orbax raises many kinds for a damaged file
                reason = (str(e).splitlines() or [""])[0][:200]
                problems.append(f"{self.folder / str(step)}: {type(e).__name__} {reason}")
                log.warning("checkpoint damaged, trying the one before: %s", problems[-1])
        if problems:
            raise UserError(
                "no checkpoint is intact:\n  " + "\n  ".join(problems) + "\nRestore the folder "
                "from a copy, or delete it to train from the start."
            )
        return None

    def _restore(self, step: int, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        if distributed.is_single():
            abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
        args = {n: ocp.args.StandardRestore(v) for n, v in abstract.items()}
        out = self.manager.restore(
            step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
        )
        for name in wanted:
            if digest(out[name]) != out["meta"]["digests"][name]:
                raise ValueError(f"{name} does not have the sha256 it was saved with")
        found = {n: out[n] for n in wanted}
        if distributed.is_single():
            found = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), found, wanted)
        return found, out["meta"]

    def discard_after(self, step: int) -> None:
        """Delete damaged checkpoints newer than `step`, so that they can be written anew."""
        for newer in [s for s in self.manager.all_steps() if s > step]:
            self.manager.delete(newer)

    def close(self) -> None:
        """Wait for saves under way."""
        self.manager.wait_until_finished()
        self.manager.close()


def _by_itself(folder: Path) -> dict[str, Any]:
    """Return options for a process that works apart from others: Orbax would wait for them."""
    if not distributed.is_single():
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    return {"create": False, "multiprocessing_options": options}


def parts(state: State) -> dict[str, Any]:
    """Return what is stored together: evaluation reads "weights" alone."""
    return {
        "weights": {"trainable": state.trainable, "stats": state.stats},
        "optimizer": {"opt": state.opt, "step": state.step, "key": state.key},
    }


def digest(tree: Any) -> str:
    """Return the sha256 of a pytree's names and numbers; all processes must ask at once."""
    out = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        out.update(jax.tree_util.keystr(path).encode())
        out.update(np.ascontiguousarray(sharding.to_host(leaf)).tobytes())
    return out.hexdigest()
