"""What is kept because it takes long to compute: damaged, it is computed again."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

from tests.faults.kinds.data import photo
from tests.faults.table import Case, kind
from vpjax.core import kept, programs
from vpjax.data.features import filling, read_rows
from vpjax.data.open import open_source
from vpjax.models.text.features import ClassPrompts, cached_text_features
from vpjax.runs import nearest, sound_files

FEATURES = np.arange(60, dtype=np.float32).reshape(12, 5)
LABELS = np.arange(12, dtype=np.int32) % 3


@kind("feature cache")
def features(folder: Path) -> Case:
    place, facts = folder / "features", {"data": "a", "backbone": "b"}

    def read():
        with filling(place, facts, [FEATURES.shape, LABELS.shape]) as store:
            while not store.complete:
                stop = store.done + 4
                store.write(store.done, FEATURES[store.done : stop], LABELS[store.done : stop])
                store.save(stop)
        return [array.tolist() for array in read_rows(place)]

    read()
    return Case(place, read, same=True)


@kind("compiled programs")
def compiled(folder: Path) -> Case:
    place = folder / "xla"
    place.mkdir()
    for name in "abc":
        (place / f"{name}-cache").write_bytes(zlib.compress(name.encode() * 400))
    programs.record(place)
    good = {p.name: p.read_bytes() for p in place.glob("*-cache")}

    def read():
        programs.check(place)
        for file in place.glob("*-cache"):  # all that JAX would load
            assert file.read_bytes() == good[file.name], f"{file.name} would be run"

    return Case(place, read)


@kind("features of texts")
def texts(folder: Path) -> Case:
    prompts = ClassPrompts(["an ant", "a bee", "a cat"], ("a {name}",), None)
    encode = lambda texts: FEATURES[: len(texts)]  # noqa: E731
    read = lambda: cached_text_features(encode, prompts, "sha", folder).values.tolist()  # noqa: E731
    read()
    (file,) = folder.glob("*.npz")
    return Case(file, read, same=True)


@kind("features of the nearest pictures")
def near(folder: Path) -> Case:
    file = folder / nearest.FILE
    nearest._write(file, "record", FEATURES, LABELS)

    def read():
        found = nearest._read(file, "record")
        return [a.tolist() for a in found or (FEATURES, LABELS)]

    return Case(file, read, same=True)


@kind("arrays with a digest")
def arrays(folder: Path) -> Case:
    file = folder / "kept.npz"
    kept.write_arrays(file, {"a": FEATURES, "b": np.array("text")})

    def read():
        found = kept.read_arrays(file)
        return found is None or hashlib.sha256(found["a"].tobytes()).hexdigest()

    good = read()
    return Case(file, lambda: good if (found := read()) is True else found, same=True)


@kind("list of files found sound")
def sound(folder: Path) -> Case:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            photo(folder / "data" / split / name / "a.png", len(split + name))
    sources = {s: open_source(f"folder:{folder / 'data'}", s) for s in ("train", "test")}
    file = folder / sound_files.FILE

    def read():
        sound_files.SOUND.clear()
        sound_files.check_files(sources, folder)
        return sorted(json.loads(file.read_text())) and None

    read()
    return Case(file, read)
