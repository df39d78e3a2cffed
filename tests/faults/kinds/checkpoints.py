"""Checkpoints: what is damaged is named, and the one before it is used."""

import contextlib
import logging
from pathlib import Path

import jax.numpy as jnp

from tests.faults.table import Case, kind
from tests.helpers.saves import META, saved, state
from vpjax.train.checkpoint import Checkpoints, read_metadata

OLD, NEW = 2, 4
MOST = 100  # trials, which take Orbax a tenth of a second of a quick machine


class Messages(logging.Handler):
    """Keeps what the library says."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record):
        self.texts.append(record.getMessage())

    def __enter__(self):
        self._logger = logging.getLogger("vpjax.train.checkpoint")
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self)
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False
        return self

    def __exit__(self, *error):
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)


def restored(folder: Path, older: bool) -> None:
    """Restore the newest intact checkpoint; it must be whole, and the newest or named."""
    with Messages() as said, contextlib.closing(Checkpoints(folder, read_only=True)) as found:
        items, meta = found.restore(state(0))
    step = meta["step"]
    assert {k: meta[k] for k in META} == META
    numbers = [items["weights"]["trainable"]["method/head/bias"], items["optimizer"]["step"]]
    numbers += [items["weights"]["stats"]["method/mean"], items["optimizer"]["opt"]["count"]]
    assert all((jnp.asarray(n) == step).all() for n in numbers), f"other numbers as step {step}"
    if step != NEW:
        assert older and step == OLD, f"step {step}"
        assert any(str(folder / str(NEW)) in text for text in said.texts), "not named"


def of_two(damage: str):
    """Return a kind that damages what is in the newer of two checkpoints."""

    def made(folder: Path) -> Case:
        place = saved(folder, OLD, NEW)
        return Case(place / str(NEW) / damage, lambda: restored(place, older=True), most=MOST)

    return made


kind("checkpoint, metadata")(of_two("meta/metadata"))
kind("checkpoint, arrays of the weights")(of_two("weights"))
kind("checkpoint, arrays of the optimiser")(of_two("optimizer"))
kind("checkpoint, any file")(of_two("."))


@kind("checkpoint, the only one")
def only(folder: Path) -> Case:
    place = saved(folder, NEW)
    return Case(
        place / str(NEW), lambda: restored(place, older=False), named=(str(place),), most=MOST
    )


@kind("checkpoint, weights for evaluation")
def evaluated(folder: Path) -> Case:
    place = saved(folder, OLD, NEW)

    def read():
        with contextlib.closing(Checkpoints(place, read_only=True)) as found:
            weights, meta = found.read_weights(lambda meta: None)
        assert (weights["trainable"]["method/head/bias"] == meta["step"]).all()

    return Case(place / str(NEW), read, most=MOST)


@kind("checkpoint, metadata without Orbax")
def metadata(folder: Path) -> Case:
    place = saved(folder, NEW) / str(NEW)

    def read():
        with contextlib.suppress(ValueError, OSError):  # as its callers do, who go without
            return read_metadata(place)["early"]
        return META["early"]

    return Case(place / "meta" / "metadata", read, same=True)
