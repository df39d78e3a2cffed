"""Preparing official data sets from their archives, without TensorFlow and without network."""

import gzip
import hashlib
import io
import re
import struct
import sys
import tarfile

import numpy as np
import pytest
import requests
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils import lazy_imports_utils
from tensorflow_datasets.image_classification import mnist

from tests.data.fake import fake_tfds
from vpjax.core.errors import UserError
from vpjax.data import open_source, prepare, standin


@pytest.fixture
def unchecked(monkeypatch):
    """Accepts archives whose checksum is not the registered one: ours are made up."""

    def record(self, url, url_info, path):
        self._recorded_url_infos[url] = url_info

    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "_register_or_validate_checksums", record)


@pytest.fixture
def offline(monkeypatch):
    """No host can be reached."""

    def refuse(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests.Session, "request", refuse)


def cifar_archive(path, folder, files, labels, extra):
    """Writes an archive like CIFAR's: each record is its labels, then 3072 bytes, planes first."""
    rng = np.random.default_rng(0)
    truth = {}
    with tarfile.open(path, "w:gz") as tar:
        for name, n in files.items():
            images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
            numbers = rng.integers(0, 10, (n, labels), np.uint8)
            truth[name] = (images, numbers[:, -1])
            planes = images.transpose(0, 3, 1, 2).reshape(n, -1)
            add(tar, folder + name, np.concatenate([numbers, planes], 1).tobytes())
        for name, count in extra.items():
            add(tar, folder + name, "\n".join(f"{name}-{i}" for i in range(count)).encode())
    return truth


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def assert_same(source, images, labels):
    """Checks that a source holds exactly these examples, in whatever order."""
    assert len(source) == len(images)
    have = {(e["image"].tobytes(), e["label"]) for e in source.__getitems__(range(len(source)))}
    assert have == {
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    }


@pytest.mark.usefixtures("unchecked", "offline")
def test_cifar10(tmp_path):
    batches = {f"data_batch_{i}.bin": 6 for i in range(1, 6)}
    truth = cifar_archive(
        tmp_path / "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin/",
        {**batches, "test_batch.bin": 7},
        labels=1,
        extra={"batches.meta.txt": 10},
    )
    folder = prepare.prepare("cifar10", tmp_path / "data", manual_dir=tmp_path)
    assert folder == tmp_path / "data" / "cifar10" / "3.0.2"
    assert list(folder.glob("*.array_record-*"))
    train = open_source("cifar10", "train", tmp_path / "data")
    assert train.classes[3] == "batches.meta.txt-3"
    images, labels = (np.concatenate(part) for part in zip(*list(truth.values())[:5], strict=True))
    assert_same(train, images, labels)
    assert_same(open_source("cifar10", "test", tmp_path / "data"), *truth["test_batch.bin"])


@pytest.mark.usefixtures("unchecked", "offline")
def test_cifar100_archive_in_default_folder(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    truth = cifar_archive(
        manual / "cifar-100-binary.tar.gz",
        "cifar-100-binary/",
        {"train.bin": 12, "test.bin": 5},
        labels=2,
        extra={"coarse_label_names.txt": 20, "fine_label_names.txt": 100},
    )
    test = open_source("cifar100", "test", tmp_path)
    assert test.classes[42] == "fine_label_names.txt-42"
    assert_same(test, *truth["test.bin"])


@pytest.mark.usefixtures("unchecked", "offline")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(tmp_path, monkeypatch, name):
    sizes = {"train": 9, "t10k": 4}
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", sizes["train"])
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", sizes["t10k"])
    rng = np.random.default_rng(1)
    truth = {}
    for part, n in sizes.items():
        images = rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
        labels = rng.integers(0, 10, n, np.uint8)
        truth[part] = images, labels
        header = struct.pack(">IIII", 2051, n, 28, 28)
        write = {f"{part}-images-idx3-ubyte.gz": header + images.tobytes()}
        write[f"{part}-labels-idx1-ubyte.gz"] = struct.pack(">II", 2049, n) + labels.tobytes()
        for file, data in write.items():
            (tmp_path / file).write_bytes(gzip.compress(data))
    prepare.prepare(name, tmp_path / "data", manual_dir=tmp_path)
    assert_same(open_source(name, "train", tmp_path / "data"), *truth["train"])
    assert_same(open_source(name, "test", tmp_path / "data"), *truth["t10k"])


@pytest.mark.usefixtures("offline")
def test_wrong_checksum_says_so(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"not the archive")
    with pytest.raises(UserError, match="wrong checksum") as error:
        prepare.prepare("cifar10", tmp_path / "data", manual_dir=tmp_path)
    text = str(error.value)
    found = hashlib.sha256(b"not the archive").hexdigest()
    assert found in text and str(tmp_path / "cifar-10-binary.tar.gz") in text
    assert re.search(r"expected +\w{64}", text) and "--accept_copies" in text
    assert "cifar:FOLDER" in text
    assert not list((tmp_path / "data" / "cifar10").glob("*/dataset_info.json"))


@pytest.mark.usefixtures("offline")
def test_a_copy_of_ones_own_is_accepted(tmp_path):
    file = tmp_path / "cifar-10-binary.tar.gz"
    batches = {f"data_batch_{i}.bin": 2 for i in range(1, 6)} | {"test_batch.bin": 3}
    extra = {"batches.meta.txt": 10}
    truth = cifar_archive(file, "cifar-10-batches-bin/", batches, 1, extra)
    known = dict(tfds.builder_cls("cifar10").url_infos)
    try:
        prepare.prepare("cifar10", tmp_path / "data", manual_dir=tmp_path, accept_copies=True)
    finally:
        tfds.builder_cls("cifar10").url_infos.update(known)
    source = open_source("cifar10", "test", tmp_path / "data")
    assert_same(source, *truth["test_batch.bin"])


@pytest.mark.usefixtures("offline")
def test_without_network_names_command_and_archive(tmp_path):
    with pytest.raises(UserError) as error:
        open_source("cifar10", "train", tmp_path)
    message = str(error.value)
    assert "python main.py prepare-data cifar10 --data_dir" in message
    assert f"put these files into {tmp_path}/downloads/manual" in message
    assert "cifar-10-binary.tar.gz" in message
    assert "no connection to www.cs.toronto.edu" in message


@pytest.mark.usefixtures("unchecked", "offline")
def test_another_process_was_first(tmp_path, monkeypatch):
    """TFDS fails when the folder it wants to rename to is there already."""
    (tmp_path / "cifar-10-binary.tar.gz").touch()

    def elsewhere(self, **_):
        patch.undo()
        fake_tfds(tmp_path / "data", "cifar10", {"train": 3})
        raise OSError("directory not empty")

    with monkeypatch.context() as patch:
        patch.setattr(tfds.builder_cls("cifar10"), "download_and_prepare", elsewhere)
        folder = prepare.prepare("cifar10", tmp_path / "data", manual_dir=tmp_path)
    assert folder == tmp_path / "data" / "cifar10" / "3.0.2"


def test_standin_leaves_no_trace():
    lazy = lazy_imports_utils.tensorflow
    with standin.standin():
        assert lazy.io.gfile.GFile
        assert lazy.image.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()[1:4] == b"PNG"
        with pytest.raises(AttributeError, match="needs tensorflow.data to be prepared"):
            lazy.data  # noqa: B018
    assert "_module" not in lazy.__dict__
    assert "tensorflow" not in sys.modules


def test_standin_refuses_another_tfds(monkeypatch):
    monkeypatch.setattr(lazy_imports_utils, "tensorflow", object())
    with (
        pytest.raises(UserError, match=f"tensorflow-datasets {tfds.__version__}"),
        standin.standin(),
    ):
        pass


def test_standin_png_is_lossless_and_lists_are_sorted(tmp_path):
    for name in "bca":
        (tmp_path / name).touch()
    space = standin.namespace()
    assert space.io.gfile.listdir(tmp_path) == ["a", "b", "c"]
    for shape in [(5, 7, 3), (5, 7, 1), (5, 7, 4)]:
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        data = space.image.encode_png(image).numpy()
        channels = min(shape[2], 3)
        assert (space.image.decode_image(data, channels).numpy() == image[:, :, :channels]).all()


def test_standin_recodes_an_image_with_transparency():
    """What the builder of Oxford Pets does with a few broken files."""
    space = standin.namespace()
    pixels = np.full((8, 8, 4), 120, np.uint8)
    tensor = space.image.decode_image(space.image.encode_png(pixels).numpy())
    assert space.shape(tensor)[-1] == 4
    jpeg = space.io.encode_jpeg(tensor[:, :, :-1]).numpy()
    assert space.image.decode_image(jpeg).shape == (8, 8, 3)


@pytest.mark.usefixtures("unchecked", "offline")
def test_svhn(tmp_path):
    """The builder that hands scipy an open file."""
    rng = np.random.default_rng(0)
    truth = {}
    for split, n in {"train": 6, "test": 3, "extra": 2}.items():
        images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        digits = rng.integers(1, 11, n, np.uint8)  # the files say 10 for a nought
        scipy.io.savemat(
            tmp_path / f"{split}_32x32.mat",
            {"X": images.transpose(1, 2, 3, 0), "y": digits[:, None]},
        )
        truth[split] = images, digits % 10
    prepare.prepare("svhn_cropped", tmp_path / "data", manual_dir=tmp_path)
    for split, examples in truth.items():
        assert_same(open_source("svhn_cropped", split, tmp_path / "data"), *examples)


@pytest.mark.usefixtures("unchecked", "offline")
def test_flowers(tmp_path):
    """JPEG files pass through unchanged, and splits come from a table."""
    jpegs = {}
    with tarfile.open(tmp_path / "102flowers.tgz", "w:gz") as tar:
        for i in range(1, 7):
            buffer = io.BytesIO()
            Image.new("RGB", (20 + i, 30), (40 * i, 90, 10)).save(buffer, "JPEG")
            jpegs[f"image_{i:05d}.jpg"] = buffer.getvalue()
            add(tar, f"jpg/image_{i:05d}.jpg", buffer.getvalue())
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": np.arange(1, 7)[None]})
    sets = {"trnid": [[5, 1]], "valid": [[2]], "tstid": [[3, 4, 6]]}
    scipy.io.savemat(tmp_path / "setid.mat", sets)
    prepare.prepare("oxford_flowers102", tmp_path / "data", manual_dir=tmp_path)
    train = open_source("oxford_flowers102", "train", tmp_path / "data")
    records = train.records.__getitems__([0, 1])
    assert {(r.file, r.label) for r in records} == {("image_00005.jpg", 4), ("image_00001.jpg", 0)}
    assert all(r.image == jpegs[r.file] for r in records)


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'cifar10'"):
        open_source("cifar01", "train", tmp_path)
    with pytest.raises(UserError, match="not of the form"):
        open_source("cifar?10", "train", tmp_path)
    with pytest.raises(UserError, match="no config 'infrared'. Its configs: rgb, all"):
        open_source("eurosat/infrared", "train", tmp_path)
    with pytest.raises(UserError, match="version there: 3.0.2; prepared in .*: none"):
        open_source("cifar10:1.0.0", "train", tmp_path)
    with pytest.raises(UserError, match="unknown backend 'torch'"):
        prepare._backend("torch")


def test_the_digits_need_no_preparing(tmp_path):
    with pytest.raises(UserError, match="digits/low comes with vpjax"):
        prepare.prepare("digits/low", tmp_path)
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        open_source("digit", "train", tmp_path)
