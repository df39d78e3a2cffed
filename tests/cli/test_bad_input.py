"""What a user can get wrong: one clear error before the first compile, and nothing is lost."""

import fcntl
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import Memory
from tests.data.fake import fake_tfds
from tests.helpers.runs import config, newest
from vpjax.core.errors import UserError
from vpjax.data.records import Record
from vpjax.data.source import Source
from vpjax.runs import experiment
from vpjax.runs import fit as fitting
from vpjax.runs.fit import fit
from vpjax.weights import download


@pytest.fixture(autouse=True)
def no_compile(monkeypatch, tmp_path_factory):
    """No test here may get as far as compiling the training step."""

    def compiled(*arguments):
        raise AssertionError("compiled before the mistake was found")

    monkeypatch.setattr(fitting, "compiled", compiled)
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def wrong(tmp_path, match, **sections):
    with pytest.raises(UserError, match=match) as error:
        fit(config(**sections), tmp_path / "run")
    return str(error.value)


def asset():
    return download.ASSETS / "digits_vit.npz"


def test_missing_weights(tmp_path):
    wrong(tmp_path, "no/such.npz", backbone={"weights": "no/such.npz"})


def test_truncated_weights(tmp_path):
    path = tmp_path / "half.npz"
    path.write_bytes(asset().read_bytes()[:200_000])
    wrong(tmp_path, "half.npz .*truncated", backbone={"weights": str(path)})


def test_weights_with_a_damaged_array(tmp_path):
    path = tmp_path / "flipped.npz"
    data = bytearray(asset().read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    wrong(tmp_path, "flipped.npz .*damaged", backbone={"weights": str(path)})


def test_weights_that_are_a_web_page(tmp_path):
    path = tmp_path / "page.npz"
    path.write_text("<html>404</html>")
    wrong(tmp_path, "page.npz: the file is a web page", backbone={"weights": str(path)})


def test_weights_of_another_model_list_everything_at_once(tmp_path):
    path = tmp_path / "other.npz"
    with np.load(asset()) as file:
        arrays = {n: file[n] for n in file.files}
    del arrays["Transformer/encoder_norm/bias"]
    arrays["surprise"] = np.zeros(3, np.float32)
    arrays["embedding/bias"] = np.zeros(7, np.float32)
    np.savez(path, **arrays)
    text = wrong(tmp_path, "do not fit", backbone={"weights": str(path)})
    assert "missing (1):\n    norm/bias" in text
    assert "unexpected (1):\n    surprise" in text
    assert "wrong shape (1):\n    patch_embed/bias: file (7,), model (48,)" in text


def test_weights_of_another_depth(tmp_path):
    text = wrong(tmp_path, "do not fit", backbone={"depth": 3})
    assert "unexpected (16)" in text


def test_positions_that_are_no_square_grid(tmp_path):
    path = tmp_path / "grid.npz"
    with np.load(asset()) as file:
        arrays = {n: file[n] for n in file.files}
    name = "Transformer/posembed_input/pos_embedding"
    arrays[name] = np.zeros((1, 1 + 6, 48), np.float32)
    np.savez(path, **arrays)
    wrong(tmp_path, "6 position embeddings are no square grid", backbone={"weights": str(path)})


def test_a_head_that_is_not_there(tmp_path):
    wrong(tmp_path, "the file has no head", backbone={"head": "load"})


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    text = wrong(tmp_path, "ViT-B_16.npz", backbone={"weights": "vit_b16_in21k"})
    assert "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz" in text
    assert str(tmp_path / "empty" / "weights" / "ViT-B_16.npz") in text


def test_an_unknown_data_set(tmp_path):
    wrong(tmp_path, "cifar10", data={"name": "cifar_10"})


def test_an_unknown_split(tmp_path):
    wrong(tmp_path, "tset.*test", data={"test": "tset"})


def test_an_empty_split(tmp_path):
    wrong(tmp_path, "no examples", data={"val": "train[:0]"})


def test_a_batch_larger_than_the_data(tmp_path):
    wrong(tmp_path, "1000.*400", train={"batch_size": 1000})


def test_no_validation_split_to_choose_by(tmp_path):
    wrong(tmp_path, "need data.val", data={"val": ""}, train={"select": "best"})


@pytest.mark.parametrize(
    ("section", "values", "match"),
    [
        ("optim", {"lr": -1.0}, "optim.lr"),
        ("optim", {"momentum": 1.0}, "optim.momentum"),
        ("optim", {"schedule": "cosin"}, "Did you mean 'cosine'"),
        ("optim", {"no_decay": "method/hed/.*"}, "matches no parameter"),
        ("train", {"trainable": "method/["}, "not a regular expression"),
        ("train", {"trainable": "backbon/.*"}, "matches no parameter"),
        ("train", {"steps": 0}, "0 steps"),
        ("train", {"eval_every": 0.0}, "train.eval_every"),
        ("train", {"select": "first"}, "train.select"),
        ("mesh", {"data": 9}, "there are 8 devices"),
        ("data", {"preset": "auto"}, None),
    ],
)
def test_choices_that_cannot_be_meant(tmp_path, section, values, match):
    if match is None:  # weights without a known preset
        path = tmp_path / "mine.npz"
        path.write_bytes(asset().read_bytes())
        wrong(tmp_path, "Name a preset", data=values, backbone={"weights": str(path)})
    else:
        wrong(tmp_path, match, **{section: values})


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fit(config(), tmp_path / "file" / "run")


def test_a_workdir_in_use(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".owner").write_text("4711")
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wrong(tmp_path, r"in use by another run \(process 4711\)")


def test_a_mistake_mended_may_use_the_same_workdir(tmp_path, monkeypatch):
    wrong(tmp_path, "Did you mean", optim={"name": "adamv"})
    monkeypatch.undo()
    assert fit(config(train={"steps": 2}), tmp_path / "run")["step"] == 2


def png(color="RGB", size=(8, 8)):
    file = io.BytesIO()
    Image.new(color, size, 1).save(file, "PNG")
    return file.getvalue()


def source_of(monkeypatch, records, shape=(8, 8, 3)):
    classes = tuple("abcde")
    make = lambda name, split, *_: Source(  # noqa: E731
        f"mine:1.0.0[{split}]", classes, Memory(records), shape
    )
    monkeypatch.setattr(experiment, "open_source", make)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_out_of_range(tmp_path, monkeypatch, label):
    records = [Record(png(), i % 5, f"{i}.png") for i in range(40)]
    records[17] = Record(png(), label, "17.png")
    source_of(monkeypatch, records)
    text = wrong(tmp_path, f"example 17 has label {label}.*0..4")
    assert "mine:1.0.0[train" in text


@pytest.mark.parametrize("data", [png()[:40], b"", b"<html></html>"])
def test_a_corrupt_image_is_named(tmp_path, monkeypatch, data):
    records = [Record(png(), i % 5, f"{i}.png") for i in range(40)]
    records[23] = Record(data, 3, "23.png")
    source_of(monkeypatch, records)
    wrong(tmp_path, r"example 23 \(23.png\) is not a readable image")


def test_images_that_are_not_rgb_are_converted(tmp_path, monkeypatch):
    kinds = ["RGB", "L", "P", "RGBA", "LA", "I;16", "1"]
    records = [Record(png(kinds[i % len(kinds)]), i % 5, f"{i}.png") for i in range(40)]
    source_of(monkeypatch, records)
    monkeypatch.undo()
    source_of(monkeypatch, records)
    assert fit(config(train={"steps": 2}), tmp_path)["step"] == 2


def test_an_image_that_breaks_during_training_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.undo()
    records = [Record(png(size=(9, 9)), i % 5, f"{i}.png") for i in range(64)]
    records[40] = Record(b"broken", 0, "40.png")
    source_of(monkeypatch, records, shape=(None, None, 3))
    settings = config(data={"val": ""}, train={"steps": 100, "batch_size": 8, "save_every": 1e9})
    with pytest.raises(UserError, match=r"example 40 \(40.png\)"):
        fit(settings, tmp_path)
    assert int(newest(tmp_path).name) >= 1


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_damaged_records_of_the_true_builder(tmp_path, damage):
    folder = fake_tfds(tmp_path / "data", "cifar10", {"train": 40, "test": 16})
    for path in folder.glob("*train*array_record*"):
        data = path.read_bytes()
        broken = data[:100] + bytes(300) + data[400:] if damage == "flipped" else data[:3000]
        path.write_bytes(broken)
    data = {"name": "cifar10", "dir": str(tmp_path / "data"), "preset": "inception"}
    data |= {"train": "train[:90%]", "val": "train[90%:]", "test": "test"}
    wrong(
        tmp_path,
        r"cifar10:3.0.2\[train\[:90%\]\] in .* cannot be read.*A file is damaged",
        data=data,
        train={"batch_size": 8},
    )


def test_the_asset_is_a_plain_npz():
    with zipfile.ZipFile(asset()) as file:
        assert file.testzip() is None
    assert asset().stat().st_size < 600_000
