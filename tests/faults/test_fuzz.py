"""Fuzzing by hypothesis: every reader of a binary format or of JSON, from the same seeds each time.

A reader gets made-up files: a good one with pieces replaced, cut, doubled or flipped, or bytes
from nothing. It returns, or raises an error that names the file; never anything else, and never
does it take memory that the file does not have.
"""

import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import table
from tests.faults.kinds import load
from vpjax.core import forms
from vpjax.core.errors import UserError

load()
EXAMPLES = 150
MEMORY = 256 * 2**20  # bytes that a reader of a small file may take
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
FORMATS = (
    "weights, npz",
    "weights, npz compressed",
    "weights, safetensors",
    "weights, msgpack",
    "weights, torch",
    "weights, data.pkl inside",
    "weights, list of parts",
    "what a run has learnt",
    "MNIST images",
    "MNIST labels",
    "CIFAR python batch",
    "TFRecord lengths",
    "TFRecord, its records",
    "index of a TFRecord file",
    "arrays with a digest",
    "features of texts",
    "compiled programs",
    "picture, PNG",
    "picture, JPEG",
    "picture, TIFF",
    "picture, WEBP",
    "picture, GIF",
    "picture, BMP",
    "picture, PPM",
    "picture, TGA",
    "picture, PCX",
    "config.json of a run",
    "result.json",
    "classes.json",
    "failed.json",
    "history",
    "adapter_config.json",
    "csv list",
    "zhou list",
)


@st.composite
def edits(draw) -> list[tuple]:
    """Return what is done to a file, one after the other: places are shares of its length."""
    number = st.sampled_from(NUMBERS).flatmap(
        lambda n: st.sampled_from(["little", "big"]).map(
            lambda order: n.to_bytes(8, order).strip(b"\0") or b"\0"
        )
    )
    piece = st.one_of(st.binary(max_size=24), number)
    one = st.tuples(
        st.sampled_from(["replace", "insert", "cut", "drop", "double", "flip"]),
        st.floats(0, 1, exclude_max=True),
        piece,
    )
    return draw(st.lists(one, min_size=1, max_size=4))


def changed(data: bytes, what: list[tuple]) -> bytes:
    """Return a file's content with edits."""
    for way, share, piece in what:
        at = int(share * len(data))
        size = max(1, len(piece))
        data = {
            "replace": data[:at] + piece + data[at + len(piece) :],
            "insert": data[:at] + piece + data[at:],
            "cut": data[:at],
            "drop": data[:at] + data[at + size :],
            "double": data[: at + size] + data[at:],
            "flip": data[:at] + bytes(b ^ size for b in data[at : at + 1]) + data[at + 1 :],
        }[way]
    return data


def survives(case: table.Case) -> None:
    """Read a damaged file within a time and within memory, in one of the two ways."""
    tracemalloc.start()
    try:
        end = table._trial(case._replace(same=False), "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert end in table.ENDS, end
    assert peak < MEMORY, f"{peak:,} bytes"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_reader(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))
    case = table.KINDS[name](tmp_path)
    good = table._content(case.file)
    with table._silent():
        case.read()  # what is loaded at the first time counts for nobody

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(edits(), st.binary(max_size=200)), st.integers(0, 7))
    def fuzz(what, which):
        file = sorted(good)[which % len(good)]
        data = what if isinstance(what, bytes) else changed(good[file] or b"", what)
        if case.fresh:
            case.fresh()
        table._write(case.file, good | {file: data})
        survives(case)

    fuzz()


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(TREES)
def test_forms_take_any_json(tree):
    """What is checked by a form is of that form, or there is a sentence."""
    form = {"a?": [int], "b?": ({"c": str}, None), str: forms.ANY}
    try:
        forms.check(tree, form, Path("x.json"))
    except UserError as error:
        assert "x.json is damaged" in str(error)
    else:
        assert isinstance(tree, dict) and isinstance(tree.get("a", []), list)


def test_the_fuzzing_sees_a_reader_that_fails(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"123")
    for read in (lambda: int(file.read_text()[4]), lambda: len(bytes(2 * MEMORY))):
        with pytest.raises(AssertionError):
            survives(table.Case(file, read))
    survives(table.Case(file, io.BytesIO(b"1").read))
