"""The converter: names kept, nothing overwritten, torch for what vpjax cannot read itself."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.weights import convert as module
from vpjax.weights.catalog import CATALOG
from vpjax.weights.convert import convert
from vpjax.weights.formats import read

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_arrays_keep_names_and_numbers(tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    said = convert(str(DATA / "legacy.pth.tar"), str(target))
    before, after = read(DATA / "legacy.pth.tar"), read(target)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    content = target.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert said == f"{target}  15 arrays  {len(content):,} bytes  sha256 {digest}"
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_nothing_is_overwritten_unasked(tmp_path):
    target = tmp_path / "out.npz"
    target.write_text("mine")
    with pytest.raises(UserError, match="--force"):
        convert(DATA / "zip.pth", target)
    assert target.read_text() == "mine"
    convert(DATA / "zip.pth", target, force=True)
    assert len(read(target)) == 15


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"unknown kind of output '\.pth'.*\.safetensors"):
        convert(str(DATA / "zip.pth"), tmp_path / "out.pth")
    with pytest.raises(UserError, match="there is no folder"):
        convert(str(DATA / "zip.pth"), tmp_path / "nowhere" / "out.npz")


def test_known_names_and_missing_files(tmp_path):
    convert("digits_vit", tmp_path / "out.safetensors")
    assert read(tmp_path / "out.safetensors").keys() == read_known("digits_vit").keys()
    with pytest.raises(UserError, match="there is no file"):
        convert(str(tmp_path / "x.pth"), tmp_path / "out.npz")


def read_known(name):
    return read(Path(module.__file__).parent / "assets" / CATALOG[name].file)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, arrays):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_npz", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(str(DATA / "zip.pth"), tmp_path / "out.npz")
    assert list(tmp_path.iterdir()) == []


def test_without_torch_it_says_what_would_help(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_has_torch", lambda: False)
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match="(?s)a.pth: .*pip install torch"):
        convert(str(path), tmp_path / "out.npz")
    with pytest.raises(UserError, match="--unsafe needs torch"):
        convert(str(path), tmp_path / "out.npz", unsafe=True)


@pytest.fixture
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("torch")


def test_torch_reads_what_vpjax_cannot(tmp_path, torch):
    weight = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    torch.save({"model": {"w": weight.to_sparse(), "b": weight.bfloat16()}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="special kind"):
        read(tmp_path / "a.pth")
    convert(str(tmp_path / "a.pth"), tmp_path / "out.npz")
    for value in read(tmp_path / "out.npz").values():
        np.testing.assert_array_equal(value, np.float32([[0, 2], [0, 0]]))


def test_whole_objects_need_consent(tmp_path, torch):
    layer = torch.nn.Linear(2, 3)
    torch.save(layer, tmp_path / "a.pth")
    with pytest.raises(UserError, match="(?s)torch cannot read.*trust.*--unsafe"):
        convert(str(tmp_path / "a.pth"), tmp_path / "out.npz")
    convert(str(tmp_path / "a.pth"), tmp_path / "out.npz", unsafe=True)
    found = read(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["weight"], layer.weight.detach().numpy())
    assert found.keys() == {"weight", "bias"}


def test_no_arrays_for_torch_either(tmp_path, torch):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds a list without arrays by name"):
        convert(str(tmp_path / "a.pth"), tmp_path / "out.npz")
    (tmp_path / "a.pth").write_bytes(b"\x80\x02garbage")
    with pytest.raises(UserError, match="torch cannot read"):
        convert(str(tmp_path / "a.pth"), tmp_path / "out.npz")
