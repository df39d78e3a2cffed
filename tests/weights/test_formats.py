"""Files of weights by content: torch's two forms without torch, safetensors, npz, and the rest."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from tests.helpers import torch_files
from vpjax.core.errors import UserError
from vpjax.weights import torch_file
from vpjax.weights.convert import convert
from vpjax.weights.formats import files_of, read, shapes

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


def test_programs_are_read_and_not_run(tmp_path):
    arrays = {"a.b.weight": np.ones((2, 3), np.float16), "scale": np.float32(2)}
    arrays |= {"a.b.bias": np.arange(3.0, dtype=np.float32), "size": np.int64(224)}
    mask = {"a.attn_mask": np.zeros((4, 4), np.float32)}  # a constant, not in a state dict
    path = torch_files.write(tmp_path / "a.pt", arrays | mask, program=True)
    found = read(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert convert(path, tmp_path / "a.npz") and read(tmp_path / "a.npz").keys() == arrays.keys()


def test_a_program_of_foreign_objects(tmp_path):
    # What it would import or call, and a state that is no dictionary, do nothing.
    for inner in (b"cos\nsystem\n(X\x02\x00\x00\x00lstR", b"c__torch__.a\nB\n)\x81K\x05b"):
        path = written(
            tmp_path / "a.pt", b"c__torch__\nM\n)\x81}X\x01\x00\x00\x00x" + inner + b"sb"
        )
        with pytest.raises(UserError, match="no dictionary of arrays"):
            read(path)


def test_arrays_of_numpy_among_tensors(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "c": np.arange(4, dtype=">f8"),
        "d": np.array([True, False]),
    }
    path = torch_files.write(
        tmp_path / "a.pth", {n: (a,) for n, a in arrays.items()} | {"t": np.ones(2, np.float32)}
    )
    found = read(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["t"].shape == (2,) and shapes(path)["a"] == (1, 2, 3)
    for bad in (np.array([len], object), np.array(["x"]), np.zeros(1, [("x", "f4")])):
        with pytest.raises(UserError):
            read(torch_files.write(tmp_path / "b.pth", {"a": (bad,)}))


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


# numpy


def test_bfloat16_in_an_npz(tmp_path, caplog):
    half = np.linspace(-3, 9, 12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", half=half, scalar=half[0, 0], whole=np.arange(3))
    with caplog.at_level("DEBUG"):
        found = read(tmp_path / "a.npz")
    same(
        found,
        {"half": half.astype(np.float32), "whole": np.arange(3)} | {"scalar": found["scalar"]},
    )
    assert found["scalar"] == np.float32(-3) and "2 arrays of two raw bytes" in caplog.text


def test_numbers_that_numpy_does_not_know(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(3, ml_dtypes.float8_e4m3fn))
    with pytest.raises(UserError, match=r"'w' holds raw bytes \(\|V1\).*float8"):
        read(tmp_path / "a.npz")


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("read_it", [read, shapes])
def test_python_objects_in_an_npz(tmp_path, read_it):
    mark = tmp_path / "mark"
    np.savez(tmp_path / "a.npz", fine=np.ones(2), params=np.array(Touch(mark), object))
    with pytest.raises(UserError, match=r"a.npz: 'params' holds Python objects .*run code"):
        read_it(tmp_path / "a.npz")
    assert not mark.exists()


def test_one_array_is_no_file_of_weights(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(UserError, match="a single array of numpy"):
        read(tmp_path / "a.npy")


# Flax


@pytest.mark.parametrize("count", [1, 15, 16])
@pytest.mark.parametrize("length", [3, 40, 300])
def test_msgpack_of_any_size(tmp_path, count, length):
    tree = {f"{i:0{length}}": np.int32([i]) for i in range(count)}
    content = serialization.to_bytes(tree)
    (tmp_path / "a.bin").write_bytes(content)
    assert read(tmp_path / "a.bin").keys() == tree.keys()
    if count > 15:  # as it begins above 65,535 entries
        (tmp_path / "a.bin").write_bytes(b"\xdf\0\0" + content[1:])
        assert read(tmp_path / "a.bin").keys() == tree.keys()


def test_msgpack_of_a_training_state(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)  # bytes; in truth 1 GiB
    large = np.arange(60, dtype=np.float32).reshape(5, 12)
    tree = {"params": {"w": large, "h": np.ones(3, ml_dtypes.bfloat16)}, "step": 7, "rng": None}
    (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    found = read(tmp_path / "a.msgpack")
    np.testing.assert_array_equal(found["params/w"], large)
    assert found["params/h"].dtype == np.float32 and found.keys() == {
        "params/w",
        "params/h",
        "step",
    }


# Several files


def sharded(folder, parts):
    folder.mkdir()
    for file, arrays in parts.items():
        if file.endswith(".bin"):
            torch_files.write(folder / file, arrays)
        else:
            safetensors.numpy.save_file(arrays, folder / file)
    index = {"metadata": {"total_size": 1}}
    index["weight_map"] = {n: file for file, arrays in parts.items() for n in arrays}
    path = folder / f"model{Path(next(iter(parts))).suffix}.index.json"
    path.write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_and_their_index(tmp_path, ending):
    name = f"model-0000{{}}-of-00003.{ending}"
    arrays = [{f"{i}.{j}": np.float32([i, j]) for j in range(3)} for i in range(3)]
    path = sharded(tmp_path / "m", {name.format(i + 1): a for i, a in enumerate(arrays)})
    same(read(path), arrays[0] | arrays[1] | arrays[2])
    assert shapes(path) == {n: (2,) for a in arrays for n in a}
    assert [f.name for f in files_of(path)] == [path.name, *(name.format(i) for i in (1, 2, 3))]
    with pytest.raises(UserError, match=r"part 2 of 3 of a model.*m/?.*model\.\w+\.index\.json"):
        read(tmp_path / "m" / name.format(2))
    (tmp_path / "m" / name.format(3)).unlink()
    with pytest.raises(UserError, match=r"lie in 3 files, of which 1 are missing: model-00003"):
        read(path)


def test_an_index_of_other_files(tmp_path):
    path = sharded(tmp_path / "m", {"a.safetensors": {"w": np.ones(1, np.float32)}})
    safetensors.numpy.save_file({"v": np.ones(1, np.float32)}, tmp_path / "m" / "a.safetensors")
    with pytest.raises(UserError, match="1 of the listed arrays are in none of its files"):
        read(path)
    for content in ("{}", '{"weight_map": 3}', "{"):
        path.write_text(content)
        with pytest.raises(UserError, match="no list of the parts of a model|none of its"):
            read(path)


def test_a_file_that_is_whole_in_spite_of_its_name(tmp_path):
    path = tmp_path / "model-00001-of-00001.safetensors"
    safetensors.numpy.save_file({"w": np.ones(1, np.float32)}, path)
    assert list(read(path)) == ["w"]


# Names and shapes alone


def test_shapes_of_every_kind(tmp_path):
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.ones((), np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    torch_files.write(tmp_path / "a.pth", arrays)
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(arrays))
    for ending in ("npz", "safetensors", "pth", "msgpack"):
        assert shapes(tmp_path / f"a.{ending}") == {"a": (2, 3), "b": ()}
    torch_files.write(tmp_path / "a.pth", {"ema": [arrays], "epoch": 3})  # a new file of one name
    assert shapes(tmp_path / "a.pth") == {"ema/0/a": (2, 3), "ema/0/b": ()}


def test_quantised_safetensors(tmp_path):
    arrays = {"w": np.ones(3, ml_dtypes.float8_e4m3fn)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="numbers of kind F8_E4M3, which are quantised"):
        read(tmp_path / "a.safetensors")
