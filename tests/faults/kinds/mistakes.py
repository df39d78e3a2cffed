"""Configs, data, weights and machines that are not as a run needs them."""

import importlib.util
import io
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from tests.faults.kinds.data import CLASSES, photo
from tests.faults.table import Row, kind
from tests.faults.trials import Tally, asked, numbers, once, ran
from tests.helpers import runs
from vpjax.weights import download

SPLITS = ("train", "val", "test")


def _data(folder: Path, count: int = 6) -> list[str]:
    """Write a folder of pictures; return the words that train on it."""
    seeds = iter(range(1000))
    for split in SPLITS:
        for name in CLASSES:
            for i in range(count):
                photo(folder / split / name / f"{i}.png", next(seeds))
    parts = [f"--config.data.{split}={split}" for split in SPLITS]
    return [f"--config.data.name=folder:{folder}", *parts, "--config.train.batch_size=8"]


def _named(name: str, trials: dict[str, tuple[tuple[str, ...], str]]):
    """Register a kind of words that a run refuses: {what: (words, what it says)}."""

    def made(folder: Path) -> Row:
        tally = Tally(name)
        for what, (words, says) in trials.items():
            with tally.trial(what, "named"):
                ran(folder / what, *words, code=2, says=says)
                assert not (folder / what / "result.json").exists()
        return tally.row

    kind(name)(made)


_named(
    "splits and batches that are not there",
    {
        "empty train": (("--config.data.train=train[:0]",), "train"),
        "empty test": (("--config.data.test=test[:0]",), "test"),
        "unknown split": (("--config.data.val=vla",), "vla"),
        "unknown data": (("--config.data.name=digist/high",), "digist"),
        "large batch": (("--config.train.batch_size=4000",), "4000"),
    },
)
_named(
    "weights that are not there, and no network",
    {
        "missing": (("--config.backbone.weights=no/such.npz",), "no/such.npz"),
        "no network": (("--config.backbone.weights=http://127.0.0.1:9/w.npz",), "put it here as"),
        "unknown name": (("--config.backbone.weights=digits_vitt",), "digits_vit"),
        "another depth": (("--config.backbone.depth=7",), "digits_vit"),
        "another width": (("--config.backbone.dim=96",), "digits_vit"),
    },
)
_named(
    "a loss that is not finite",
    {
        "lr 1e30": (("--config.optim.lr=1e30",), "diverged"),
        "lr inf": (("--config.optim.lr=inf",), "lr"),
    },
)


@kind("weights that are damaged or not finite")
def weights(folder: Path) -> Row:
    tally = Tally("weights that are damaged or not finite")
    good = (download.ASSETS / "digits_vit.npz").read_bytes()
    with np.load(io.BytesIO(good)) as file:
        arrays = dict(file)
    name = max(arrays, key=lambda n: arrays[n].size)
    nan = io.BytesIO()
    np.savez(nan, **(arrays | {name: np.full_like(arrays[name], np.nan)}))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    contents = {"cut": good[:200_000], "empty": b"", "page": b"<!doctype html><p>", "nan": nan}
    contents |= {"nan": nan.getvalue(), "flipped": bytes(flipped)}
    for what, data in contents.items():
        (folder / f"{what}.npz").write_bytes(data)
        with tally.trial(what, "named"):
            words = f"--config.backbone.weights={folder / f'{what}.npz'}"
            ran(folder / what, words, code=2, says=f"{what}.npz")
    return tally.row


@kind("another config in a run's folder")
def changed(folder: Path) -> Row:
    tally = Tally("another config in a run's folder")
    shutil.copytree(once(), folder / "run")
    before = numbers(folder / "run")
    for key, value in {
        "optim.lr": 0.5,
        "seed": 7,
        "method.num_tokens": 3,
        "train.batch_size": 16,
        "train.steps": 24,
        "data.train": "train[:300]",
        "data.classes": "0,1,2",
    }.items():
        with tally.trial(key, "named"):
            says = f"{key}: {value!r} now"
            ran(folder / "run", f"--config.{key}={value}", code=2, says=says)
            assert numbers(folder / "run") == before
    with tally.trial("the same"):
        ran(folder / "run")
        assert numbers(folder / "run") == before
    return tally.row


@kind("other pictures behind the same names")
def other_data(folder: Path) -> Row:
    tally = Tally("other pictures behind the same names")
    words = _data(folder / "data")
    ran(folder / "run", *words)
    (folder / "run" / "result.json").unlink()
    for split in ("train", "val"):
        file = folder / "data" / split / "bee" / "1.png"
        good = file.read_bytes()
        with tally.trial(split, "named"):
            photo(file, 5000)
            ran(folder / "run", *words, code=2, says=split)
        file.write_bytes(good)
    with tally.trial("as they were"):
        ran(folder / "run", *words)
    return tally.row


@kind("pictures that are broken, in any split")
def corrupt(folder: Path) -> Row:
    tally = Tally("pictures that are broken, in any split")
    words = _data(folder / "data")
    good = (folder / "data" / "train" / "bee" / "3.png").read_bytes()
    broken = {"cut": good[: len(good) // 2], "empty": b"", "page": b"<html></html>"}
    for split in SPLITS:
        for what, data in broken.items():
            file = folder / "data" / split / "bee" / "3.png"
            before = file.read_bytes()
            file.write_bytes(data)
            with tally.trial((split, what), "named"):
                ran(folder / f"{split}-{what}", *words, code=2, says="3.png")
            file.write_bytes(before)
    return tally.row


@kind("pictures of odd kinds, in uneven numbers")
def odd(folder: Path) -> Row:
    """All count; the last batch is partial, and there are fewer of val than devices."""
    tally = Tally("pictures of odd kinds, in uneven numbers")
    words = _data(folder / "data")
    place = folder / "data" / "train" / "bee"
    for i, mode in enumerate(("CMYK", "P", "L", "LA", "RGBA", "I;16", "1")):
        ending = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (9 + i, 12), 1).save(place / f"odd{i}.{ending}")
    turned = Image.new("RGB", (30, 12), (200, 9, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(place / "turned.jpg", exif=exif)
    for file in sorted((folder / "data" / "val").rglob("*.png"))[5:]:
        file.unlink()
    with tally.trial("all"):
        ran(folder / "run", *words)
        found = runs.result(folder / "run")
        images = {split: part["images"] for split, part in found["data"].items()}
        assert images == {"train": 26, "val": 5, "test": 18}, images
        assert (found["val_count"], found["test_count"]) == (5, 18)
    return tally.row


@kind("one picture in train and test")
def leaked(folder: Path) -> Row:
    tally = Tally("one picture in train and test")
    words = [w for w in _data(folder / "data") if w.startswith("--config.data.")]
    recipe = ("check-data", "--config", "configs/digits.py:vpt_deep", *words)
    for i, (split, other) in enumerate((("train", "test"), ("train", "val"), ("val", "test"))):
        file = folder / "data" / split / "bee" / f"{i}.png"
        copy = folder / "data" / other / "bee" / "leaked.bmp"
        Image.open(file).save(copy)
        with tally.trial((split, other), "named"):
            asked(*recipe, f"--workdir={folder / str(i)}", code=2, says="leaked.bmp")
        copy.unlink()
    with tally.trial("none"):
        asked(*recipe, f"--workdir={folder / 'none'}")
    return tally.row


@kind("loggers that are not there, or fail")
def failing(folder: Path) -> Row:
    tally = Tally("loggers that are not there, or fail")
    whole = once()
    names = ("tensorboard", "wandb", "mlflow")
    for name in names:
        with tally.trial(name), mock.patch.dict(sys.modules, {name: None}):
            ran(folder / name, f"--config.loggers={name}", says=f"pip install 'vpjax[{name}]'")
            assert numbers(folder / name) == numbers(whole)
    with tally.trial("fails"), mock.patch.dict(sys.modules, {"mlflow": object()}):
        ran(folder / "fails", "--config.loggers=mlflow", says="is left out")
        assert numbers(folder / "fails") == numbers(whole)
    return tally.row


@kind("libraries that are not installed")
def extras(folder: Path) -> Row:
    tally = Tally("libraries that are not installed")
    shutil.copytree(once(), folder / "run")
    real = importlib.util.find_spec
    lacking = {"flatbuffers", "starlette", "uvicorn"}
    find = lambda name, *more: None if name in lacking else real(name, *more)  # noqa: E731
    with mock.patch.object(importlib.util, "find_spec", find):
        for command in (("export", "a.stablehlo"), ("demo",)):
            with tally.trial(command, "named"):
                words = (*command[:1], *(str(folder / w) for w in command[1:]))
                asked(*words, f"--workdir={folder / 'run'}", code=2, says="pip install")
    return tally.row


@kind("odd names of folders")
def names(folder: Path) -> Row:
    tally = Tally("odd names of folders")
    whole = once()
    for name in ("größe 写真 two", "$HOME `x` {y} %s -x=1,2", "long" * 40):
        with tally.trial(name):
            run = folder / name / "run"
            ran(run)
            assert numbers(run) == numbers(whole)
            asked("eval", f"--workdir={run}")
    return tally.row


@kind("an exported program, without vpjax")
def exported(folder: Path) -> Row:
    """`export` itself runs the file in a process that has no vpjax, and compares."""
    tally = Tally("an exported program, without vpjax")
    shutil.copytree(once(), folder / "run")
    with tally.trial("stablehlo"):
        target = folder / "mine.stablehlo"
        asked("export", str(target), f"--workdir={folder / 'run'}")
        assert target.stat().st_size and (folder / "mine.stablehlo.json").exists()
    with tally.trial("prompts are no weights", "named"):
        words = ("export", str(folder / "a.npz"), f"--workdir={folder / 'run'}")
        asked(*words, code=2, says="which a file of a backbone's weights cannot hold")
    return tally.row
