"""Checkpoints with Orbax of what changes while training, and of nothing else.

    <workdir>/checkpoints/last/<step>/weights     trainable parameters and running averages
                                      optimizer   its state, the step, the PRNG key
                                      meta        config, backbone, digests, early stopping

The frozen backbone is identified by its file's sha256, never copied. Orbax keeps no checksums and
restores a flipped bit without an error, so each item's sha256 is stored in `meta`, beside that of
`meta` itself, and compared when it is read. A damaged checkpoint is logged, and the one before it
is used. What belongs to other data or to another model is not damaged: `meta` is read first, and
the caller judges it.

Who only reads changes nothing: Orbax would take what another process is writing for a leftover.

Rows that pad an array to a multiple of the devices are not saved, so that any number of devices
reads what another has written.
"""

import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.core.files import json_digest
from vpjax.core.troubles import explain
from vpjax.train import sharding
from vpjax.train.step import State

log = logging.getLogger(__name__)

LOOKS = 50  # at a folder that changes while it is looked at


class Checkpoints:
    """A folder of checkpoints, which are saved in the background.

    Args:
        folder: created if it does not exist, unless it is only read.
        keep: how many checkpoints are kept, the newest ones.
        rows: {regular expression: number of rows} for parameters with rows beyond these that only
            pad them.
        read_only: whether another process may be writing there; else the caller holds the lock of
            the run, and what a killed one has left half-written is deleted.

    Attributes:
        restored: the metadata of the checkpoint that was restored last; {} before.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        rows: Mapping[str, int] | None = None,
        read_only: bool = False,
    ):
        self.folder, self.rows = folder.absolute(), dict(rows or {})
        self._keep, self._read_only = keep, read_only
        self._pending: tuple[int, dict, dict] | None = None
        self.restored: dict[str, Any] = {}
        self.manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        more = _single_process_options(self.folder, create=not self._read_only)
        if self._read_only:
            options = ocp.CheckpointManagerOptions(
                read_only=True, save_interval_steps=0, **more | {"create": False}
            )
            return self._looked(lambda: ocp.CheckpointManager(self.folder, options=options))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, cleanup_tmp_directories=True, **more
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _looked(self, look: Callable[[], Any]) -> Any:
        """Return what `look` finds in a folder where a run deletes checkpoints meanwhile."""
        for _ in range(LOOKS):
            with contextlib.suppress(FileNotFoundError):  # one was listed, and is gone
                return look()
            time.sleep(0.02)
        return look()

    def save(self, state: State, meta: dict[str, Any]) -> None:
        """Save a state in the background; call `close` before the process ends.

        Each of several processes saves its part: all must call this at the same step.

        Args:
            state: the training state; its step names the checkpoint.
            meta: what is stored beside it, as JSON.
        """
        self.wait()
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = without_padding(checkpoint_items(state), self.rows)
        if _alone():
            items = jax.tree.map(np.array, items)  # copies, as the next step reuses the arrays
        meta = meta | {"step": step, "digests": {n: digest(v) for n, v in items.items()}}
        meta["arrays"] = described(items["weights"])
        self._pending = step, items, sealed(meta)
        with self._trying_again():
            self._write()

    def _write(self) -> None:
        if self._pending is None or self._pending[0] in self.manager.all_steps():
            return
        step, items, meta = self._pending
        saves = {n: ocp.args.StandardSave(v) for n, v in items.items()}
        self.manager.save(
            step, args=ocp.args.Composite(**saves, meta=ocp.args.JsonSave(meta)), force=True
        )

    def wait(self) -> None:
        """Wait until everything that was saved is on the disk."""
        with self._trying_again():
            self.manager.wait_until_finished()
        self._pending = None

    @contextlib.contextmanager
    def _trying_again(self) -> Iterator[None]:
        """Save once more if Orbax has given up waiting: it goes by the clock, which may jump."""
        try:
            yield
        except TimeoutError:
            log.warning("%s: saving took too long, or the clock was set; again", self.folder)
            with contextlib.suppress(Exception):
                self.manager.close()
            self.manager = self._open()
            self._write()
            self.manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, the newest first."""
        self.wait()
        if self._read_only:
            self._looked(self.manager.reload)
        return sorted(self.manager.all_steps(), reverse=True)

    def restore(
        self,
        like: State,
        only_weights: bool = False,
        check: Callable[[Mapping[str, Any]], None] | None = None,
        step: int | None = None,
    ) -> tuple[dict[str, Any], dict] | None:
        """Return the items of the newest intact checkpoint and its metadata.

        Damaged checkpoints are logged and skipped.

        Args:
            like: a state with the same shapes, dtypes and shardings.
            only_weights: whether to leave out the optimiser's state.
            check: called with the metadata before any array is read; its `UserError` is raised.
            step: the one checkpoint to read; None: the newest.

        Returns:
            The items by name and the metadata; None if there is no checkpoint.

        Raises:
            UserError: if there are checkpoints, and all are damaged, or none is of `step`.
        """
        wanted = checkpoint_items(like)
        if only_weights:
            wanted = {"weights": wanted["weights"]}

        def read(step: int) -> tuple[dict[str, Any], dict]:
            meta = self._meta(step)
            if check is not None:
                check(meta)
            return self._restore(step, wanted, meta), meta

        if (found := self._newest(read, step)) is not None:
            self.restored = found[1]
        return found

    def _newest(self, read: Callable[[int], Any], step: int | None) -> Any:
        """Return what `read` returns of the newest checkpoint that is intact."""
        steps, problems, tried = self.steps(), [], set()
        if step is not None and step not in steps:
            have = ", ".join(map(str, sorted(steps))) or "none"
            raise UserError(f"{self.folder} has no checkpoint of step {step}, but of: {have}.")
        while left := [s for s in (steps if step is None else [step]) if s not in tried]:
            tried.add(left[0])
            try:
                return read(left[0])
            except UserError:
                raise
            except Exception as e:  # Orbax raises many kinds for a damaged file
                if text := explain(e):  # the machine's fault, not the checkpoint's
                    raise UserError(text) from e
                place = self.folder / str(left[0])
                if not place.exists():  # a run that goes on has deleted it, and has newer ones
                    steps = self.steps()
                    continue
                reason = (str(e).splitlines() or [""])[0][:200]
                problems.append(f"{place}: {type(e).__name__} {reason}")
                if step is None and len(left) > 1:
                    log.warning("checkpoint damaged, trying the one before: %s", problems[-1])
        if problems:
            raise UserError(
                "no checkpoint is intact:\n  " + "\n  ".join(problems) + "\nRestore the folder "
                "from a copy, or give another --workdir to train from the start."
            )
        if step is not None:
            raise UserError(f"{self.folder / str(step)} was deleted while it was read.")
        return None

    def _meta(self, step: int) -> dict[str, Any]:
        """Return the metadata of a checkpoint. Raise: ValueError if they are damaged."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return unsealed(self.manager.restore(step, args=args).meta, step)

    def _restore(self, step: int, wanted: dict[str, Any], meta: dict) -> dict[str, Any]:
        short = jax.eval_shape(lambda w: without_padding(w, self.rows), wanted)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        abstract = jax.tree.map(_of_shape, abstract, short)
        if _alone():
            abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
        args = {n: ocp.args.StandardRestore(v) for n, v in abstract.items()}
        out = self.manager.restore(step, args=ocp.args.Composite(**args))
        for name in wanted:
            if digest(out[name]) != meta["digests"][name]:
                raise ValueError(f"{name} does not have the sha256 it was saved with")
        return jax.tree.map(padded_as, {n: out[n] for n in wanted}, wanted)

    def read_weights(
        self, check: Callable[[Mapping[str, Any]], None], step: int | None = None
    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
        """Return the trainable parameters and running averages of a checkpoint, and its metadata.

        Nothing needs to be known of them.

        Args:
            check: called with the metadata before any array is read; its `UserError` is raised.
            step: of the checkpoint; None: the newest that is intact.

        Raises:
            UserError: if there is none, or all are damaged.
        """

        def read(step: int) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
            meta = self._meta(step)
            check(meta)
            parts = meta["arrays"].items()
            empty = {k: {n: np.empty(s, np.float32) for n, s in v.items()} for k, v in parts}
            return self._restore(step, {"weights": empty}, meta)["weights"], meta

        if (found := self._newest(read, step)) is None:
            raise UserError(f"{self.folder} holds no checkpoint. Train that run for longer.")
        return found

    def discard_after(self, step: int) -> None:
        """Delete the (damaged) checkpoints newer than `step`, so that they can be written again."""
        for newer in [s for s in self.manager.all_steps() if s > step]:
            self.manager.delete(newer)

    def close(self) -> None:
        """Wait until everything is saved, and release the folder."""
        try:
            self.wait()
        finally:
            self.manager.close()


KEYS = {"version", "config", "backbone", "preset", "classes", "early", "step", "digests", "arrays"}


def sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata with their own sha256."""
    return dict(meta) | {"sha256": json_digest(meta)}


def unsealed(meta: Any, step: int) -> dict[str, Any]:
    """Return metadata without their sha256, which earlier versions did not write.

    Args:
        meta: as it was read.
        step: of the checkpoint, by the name of its folder.

    Raises:
        ValueError: if they are damaged, or those of another step.
    """
    if not isinstance(meta, dict):
        raise ValueError("its metadata are no JSON object")
    had, meta = "sha256" in meta, dict(meta)
    seal = meta.pop("sha256", None)
    if seal != json_digest(meta) if had else not meta.keys() <= KEYS:
        raise ValueError("its metadata do not have the sha256 they were saved with")
    if meta.get("step") != step:
        raise ValueError(f"its metadata are those of step {meta.get('step')}")
    return meta


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of one checkpoint without Orbax, as of a run that may be going on.

    Args:
        folder: of the checkpoint, <checkpoints>/<step>.

    Raises:
        ValueError: if they are damaged.
        OSError: if they cannot be read.
    """
    text = (folder / "meta" / "metadata").read_text(encoding="utf-8")
    return unsealed(json.loads(text), int(folder.name))


def _single_process_options(folder: Path, create: bool = True) -> dict[str, Any]:
    """Return options for a process that works separately: else Orbax waits for the others."""
    if not distributed.is_single():
        return {}
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    this = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
    )
    return {"create": False, "multiprocessing_options": options}


def _alone() -> bool:
    """Return whether this process saves all of its arrays, which Orbax then gets from numpy.

    It accepts those of one of several processes only so. And with each save of arrays of JAX's it
    asks TensorStore for metrics, lists that are never freed: 0.03 MB a save.
    """
    return distributed.is_single() or jax.process_count() == 1


def checkpoint_items(state: State) -> dict[str, Any]:
    """Return the items of a checkpoint; "weights" is all that evaluation reads."""
    return {
        "weights": {"trainable": state.trainable, "stats": state.stats},
        "optimizer": {"opt": state.opt, "step": state.step, "key": state.key},
    }


def without_padding(items: Any, rows: Mapping[str, int]) -> Any:
    """Return a pytree whose arrays have no rows that only pad them.

    Args:
        items: dictionaries with names of parameters as keys, at any depth.
        rows: see `Checkpoints`.
    """

    def cut(path: tuple, value: jax.Array) -> jax.Array:
        names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        for pattern, count in rows.items():
            if np.ndim(value) and any(re.fullmatch(pattern, name) for name in names):
                return value[:count] if value.shape[0] > count else value
        return value

    return jax.tree_util.tree_map_with_path(cut, items)


def described(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """Return the shapes of the trainable parameters and of the running averages, for the record."""
    return {key: {n: list(v.shape) for n, v in part.items()} for key, part in tree.items()}


def _of_shape(array: jax.ShapeDtypeStruct, other: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if array.shape == other.shape:
        return array
    whole = NamedSharding(array.sharding.mesh, PartitionSpec()) if array.sharding else None
    return jax.ShapeDtypeStruct(other.shape, array.dtype, sharding=whole)


def padded_as(value: Any, like: jax.Array) -> jax.Array:
    """Return an array with rows of zeros behind it and on devices as another one is."""
    if value.shape != like.shape:
        value = sharding.to_host(value)
        value = np.pad(value, [(0, like.shape[0] - len(value)), *[(0, 0)] * (value.ndim - 1)])
    elif not _alone() or isinstance(like, np.ndarray):
        return value
    return sharding.put(value, like.sharding)


def digest(tree: Any) -> str:
    """Return the sha256 of a pytree's names and values; all processes must call it together."""
    out = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        out.update(jax.tree_util.keystr(path).encode())
        out.update(np.ascontiguousarray(sharding.to_host(leaf)).tobytes())
    return out.hexdigest()
