"""Files of weights by content: torch's two forms without torch, safetensors, npz, and the rest."""

import pickle
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vpjax.core.errors import UserError
from vpjax.weights import torch_file
from vpjax.weights.formats import read

DATA = Path(__file__).parent / "data"


def same(found, expected, prefix=""):
    assert found.keys() == {prefix + n for n in expected}
    for name, value in expected.items():
        ours = found[prefix + name]
        assert (ours.dtype, ours.shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(ours, value, err_msg=name)


def expected():
    with np.load(DATA / "expected.npz") as file:
        return {n: file[n] for n in file.files}


def test_what_torch_wrote():
    same(read(DATA / "zip.pth"), expected())
    same(read(DATA / "legacy.pth.tar"), expected(), "module.")
    assert expected()["repeated"].shape == (3, 4)  # the file has what it was made to have


@pytest.mark.filterwarnings("ignore")
def test_what_torch_writes_today(tmp_path):
    pytest.importorskip("torch")
    from tests.weights.data import make

    make.make(tmp_path)
    with np.load(tmp_path / "expected.npz") as file:
        fresh = {n: file[n] for n in file.files}
    same(read(tmp_path / "zip.pth"), fresh)
    same(read(tmp_path / "legacy.pth.tar"), fresh, "module.")


def test_shared_numbers_are_read_once():
    arrays = read(DATA / "zip.pth")
    assert np.shares_memory(arrays["shared"], arrays["shared.rows"])


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth.tar", "expected.npz"])
def test_the_extension_says_nothing(tmp_path, name):
    path = shutil.copy(DATA / name, tmp_path / "weights.bin")
    assert len(read(path)) == len(expected())


def test_safetensors(tmp_path):
    half = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    arrays = {"a.b": np.ones((2, 1), np.float32), "h": np.float16([0.5]), "i": np.arange(3)}
    safetensors.numpy.save_file(arrays | {"bf": half}, tmp_path / "x.pth")
    found = read(tmp_path / "x.pth")
    widened = {"h": np.float32([0.5]), "bf": half.astype(np.float32)}
    same(found, arrays | widened)


# Pickles written by hand: what torch writes, and what it never would.


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def numbers(*values):
    return b"(" + b"".join(b"J" + v.to_bytes(4, "little", signed=True) for v in values) + b"t"


def tensor(shape=(3,), strides=(1,), offset=0, key="0", count=3, kind="FloatStorage"):
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key)
    storage += text("cpu") + numbers(count)[1:-1] + b"tQ"
    arguments = storage + numbers(offset)[1:-1] + numbers(*shape) + numbers(*strides) + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def tree(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def written(path, content, legacy=False, little=True):
    """Writes a torch file whose storage 0 holds 1, 2, 3."""
    data, content = np.float32([1, 2, 3]).tobytes(), b"\x80\x02" + content + b"."
    if legacy:
        machine = {"protocol_version": 1001, "little_endian": little}
        with open(path, "wb") as stream:
            stream.write(torch_file.MAGIC)
            for value in (1001, machine):
                pickle.dump(value, stream, protocol=2)
            stored = b"cpu" in content  # a legacy file lists what its tree mentions
            stream.write(content + pickle.dumps(["0"] * stored, protocol=2))
            stream.write((3).to_bytes(8, "little") + data if stored else b"")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("name/data.pkl", content)
            archive.writestr("name/byteorder", "little" if little else "big")
            archive.writestr("name/data/0", data)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_runs_nothing(tmp_path, legacy):
    mark = tmp_path / "mark"
    call = b"cposix\nsystem\n(" + text(f"touch {mark}") + b"tR"
    path = written(tmp_path / "a.pth", tree(evil=call, model=tree(w=tensor())), legacy)
    pickle.loads(b"\x80\x02" + call + b".")
    assert mark.exists()  # it would have worked
    mark.unlink()
    same(read(path), {"w": np.float32([1, 2, 3])})
    assert not mark.exists()


ATTEMPTS = {
    "attribute of a builder": b"ccollections\nOrderedDict\n}" + text("function") + b"Nsb",
    "slot of a builder": b"ccollections\nOrderedDict\nN}" + text("function") + b"Ns\x86b",
    "method of a dictionary": b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb",
    "instance of a class": b"(ios\n_Environ\n" + text("a") + b"o",
    "import by the stack": text("os") + text("system") + b"\x93",
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_a_file_changes_nothing(tmp_path, attempt):
    path = written(tmp_path / "a.pth", tree(evil=attempt, model=tree(w=tensor())))
    try:
        same(read(path), {"w": np.float32([1, 2, 3])})
    except UserError as e:
        assert "damaged" in str(e)
    same(read(DATA / "zip.pth"), expected())


def test_only_the_model_is_read(tmp_path):
    absent = tensor(key="7", count=10**9)  # would be gigabytes, and is not there
    path = written(tmp_path / "a.pth", tree(optimizer=absent, model=tree(w=tensor())))
    same(read(path), {"w": np.float32([1, 2, 3])})


def test_wrappers_in_order(tmp_path):
    one, two = tree(one=tensor()), tree(two=tensor())
    find = lambda content: list(read(written(tmp_path / "a.pth", content)))  # noqa: E731
    assert find(tree(one=tensor(), epoch=b"K\x01", name=text("x"))) == ["one"]
    assert find(tree(teacher=one, state_dict=two)) == ["two"]
    assert find(tree(state_dict=one, model=two)) == ["two"]
    assert find(tree(state_dict=one, model=text("vit_base"))) == ["one"]
    assert find(tree(model=tree(state_dict=one))) == ["one"]
    assert find(tree(one=tensor(), model=tree(epoch=b"K\x01"))) == ["one"]


OUTSIDE = {
    "offset": {"offset": 1},
    "stride": {"strides": (2,)},
    "shape": {"shape": (4,)},
    "negative stride": {"offset": 2, "strides": (-1,)},
    "negative offset": {"offset": -1},
    "count": {"count": 4, "shape": (4,)},
    "no such storage": {"key": "5"},
    "fewer strides": {"shape": (1, 3)},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrong", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_tensors_stay_inside_their_storage(tmp_path, wrong, legacy):
    path = written(tmp_path / "a.pth", tree(w=tensor(**wrong)), legacy)
    with pytest.raises(UserError, match="truncated or damaged"):
        read(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_needs_torch_names_the_converter(tmp_path, legacy):
    path = tmp_path / "a.pth"
    sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R"
    for content, found in (
        (tree(w=tensor(kind="QInt8Storage")), "numbers of a special kind .*QInt8Storage"),
        (tree(w=sparse), "_rebuild_sparse_tensor"),
        (tree(epoch=b"K\x01", model=b"cnets\nViT\n)R"), r"no dictionary of arrays.*'epoch'"),
        (b"cnets\nViT\n)R", "nets.ViT"),
    ):
        written(path, content, legacy)
        with pytest.raises(UserError, match=rf"(?s){found}.*python main.py convert .*a.pth"):
            read(path)
    written(path, tree(w=tensor()), legacy, little=False)
    with pytest.raises(UserError, match="big-endian"):
        read(path)


def test_torchscript_needs_torch(tmp_path):
    path = written(tmp_path / "a.pt", tree(w=tensor()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("name/constants.pkl", b"")
    with pytest.raises(UserError, match=r"TorchScript(?s:.*)python main.py convert"):
        read(path)


# Damage


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth.tar", "expected.npz", "a.safetensors"])
def test_cut_off_anywhere(tmp_path, name):
    if name == "a.safetensors":
        safetensors.numpy.save_file(expected(), tmp_path / name)
        content = (tmp_path / name).read_bytes()
    else:
        content = (DATA / name).read_bytes()
    path = tmp_path / "cut"
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="truncated|unknown kind|pickle without"):
            read(path)


def test_a_flipped_bit(tmp_path):
    content = bytearray((DATA / "zip.pth").read_bytes())
    place = content.index(expected()["plain"].tobytes())
    content[place + 5] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"flipped.pth \(.* bytes\) .*damaged; fetch it again"):
        read(path)


OTHERS = {
    "web page": (b"\n<!DOCTYPE html><html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "gzip": (b"\x1f\x8b\x08", "gzip"),
    "pickle": (pickle.dumps({"a": 1}), "pickle without torch's header.*--unsafe"),
    "nothing": (b"", "it is empty"),
    "noise": (b"abcdefghij", "begins with b'abcdefgh'.*Expected npz, safetensors or a torch"),
}


@pytest.mark.parametrize(("content", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_other_kinds_of_files(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.pth.*{message}"):
        read(path)


def test_a_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(UserError, match="zip file without arrays"):
        read(tmp_path / "a.npz")
