"""CIFAR as published: python batches, which are pickles, and binary ones."""

import os
import pickle

import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.data import open_source

RNG = np.random.default_rng(0)
NAMES = [f"kind {chr(97 + i)}" for i in range(10)]
ROWS = 4  # images of a batch


def rows(n=ROWS):
    return RNG.integers(0, 256, (n, 3072), np.uint8), (np.arange(n) % 10).tolist()


def python10(folder, text_keys=False):
    """Writes CIFAR-10 in python batches; returns the pixels and labels of each file."""
    folder.mkdir(parents=True)
    key = str if text_keys else lambda name: name.encode()
    out = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data, labels = out[name] = rows()
        content = {key("data"): data, key("labels"): labels, key("batch_label"): key(name)}
        (folder / name).write_bytes(pickle.dumps(content, 2))
    names = [n.encode() for n in NAMES]
    (folder / "batches.meta").write_bytes(pickle.dumps({key("label_names"): names}, 2))
    return out


def binary10(folder):
    folder.mkdir(parents=True)
    out = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data, labels = out[name] = rows()
        lines = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
        (folder / f"{name}.bin").write_bytes(lines.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(n.replace(" ", "_") for n in NAMES) + "\n\n")
    return out


@pytest.mark.parametrize("text_keys", [True, False])
def test_python_batches(tmp_path, text_keys):
    written = python10(tmp_path / "cifar-10-batches-py", text_keys)
    for name in (f"cifar:{tmp_path}", f"cifar:{tmp_path / 'cifar-10-batches-py'}"):
        source = open_source(name, "train")
        assert len(source) == 5 * ROWS and source.classes == tuple(NAMES)
        data, labels = written["data_batch_2"]
        assert source.labels()[ROWS : 2 * ROWS].tolist() == labels
        assert (source[ROWS]["image"][3, 7] == data[0].reshape(3, 32, 32)[:, 3, 7]).all()
    assert len(open_source("cifar:.", "test+train[:50%]", tmp_path)) == ROWS + 10


def test_binary_batches(tmp_path):
    written = binary10(tmp_path / "mine")
    source = open_source(f"cifar:{tmp_path / 'mine'}", "test")
    data, labels = written["test_batch"]
    assert source.labels().tolist() == labels
    assert (source[2]["image"] == data[2].reshape(3, 32, 32).transpose(1, 2, 0)).all()


@pytest.mark.parametrize("binary", [True, False])
def test_a_hundred_classes_have_the_fine_labels(tmp_path, binary):
    folder = tmp_path / ("cifar-100-binary" if binary else "cifar-100-python")
    folder.mkdir()
    names = [f"n{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(100)]
    for part in ("train", "test"):
        data, coarse, fine = rows()[0], [3, 2, 1, 0], [99, 5, 42, 7]
        if binary:
            lines = np.concatenate([np.array([coarse, fine], np.uint8).T, data], axis=1)
            (folder / f"{part}.bin").write_bytes(lines.tobytes())
        else:
            content = {b"data": data, b"coarse_labels": coarse, b"fine_labels": fine}
            (folder / part).write_bytes(pickle.dumps(content, 2))
    (folder / "fine_label_names.txt").write_text("\n".join(names))
    meta = {b"fine_label_names": [n.encode() for n in names]}
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))
    source = open_source(f"cifar:{tmp_path}", "train")
    assert source.labels().tolist() == [99, 5, 42, 7] and source.num_classes == 100


class Evil:
    def __reduce__(self):
        return os.mkdir, ("run-by-a-pickle",)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python10(tmp_path / "c")
    (tmp_path / "c" / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(UserError, match="data_batch_3 is no python batch.*mkdir"):
        open_source("cifar:c", "train")
    assert not (tmp_path / "run-by-a-pickle").exists()


def test_damage_is_named(tmp_path):
    binary10(tmp_path / "b")
    file = tmp_path / "b" / "data_batch_5.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="data_batch_5.bin has 12291 bytes"):
        open_source(f"cifar:{tmp_path / 'b'}", "train")
    assert len(open_source(f"cifar:{tmp_path / 'b'}", "test")) == ROWS
    python10(tmp_path / "p")
    (tmp_path / "p" / "data_batch_1").write_bytes(b"\x80\x02}q")
    with pytest.raises(UserError, match="data_batch_1 is no python batch"):
        open_source(f"cifar:{tmp_path / 'p'}", "train")
    (tmp_path / "p" / "data_batch_1").unlink()
    with pytest.raises(UserError, match="data_batch_1 cannot be read"):
        open_source(f"cifar:{tmp_path / 'p'}", "train")


def test_what_is_missing_or_too_much_is_said(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds none of.*tar -xzf .*cifar-10-python.tar.gz"):
        open_source(f"cifar:{tmp_path}", "train")
    python10(tmp_path / "cifar-10-batches-py")
    binary10(tmp_path / "cifar-10-batches-bin")
    with pytest.raises(UserError, match="several forms"):
        open_source(f"cifar:{tmp_path}", "train")


def written_by_python_2(data, labels):
    """Returns a batch as Python 2 pickled it, text and bytes alike, as the published files are."""
    raw, n = data.tobytes(), len(data)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN"
    kind += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    state = b"(K\x01(K" + bytes([n]) + b"M\x00\x0ct" + kind + b"\x89"
    state += b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    listed = b"(" + b"".join(b"K" + bytes([label]) for label in labels) + b"l"
    return b"\x80\x02(U\x04data" + array + state + b"U\x06labels" + listed + b"d."


def test_python_batches_of_python_2(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    python10(folder)
    data, labels = rows()
    (folder / "test_batch").write_bytes(written_by_python_2(data, labels))
    source = open_source(f"cifar:{tmp_path}", "test")
    assert source.labels().tolist() == labels
    assert (source[1]["image"] == data[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
