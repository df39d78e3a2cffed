"""Lists, labels and metadata of data sets, and what is kept of them."""

import io
import json
import struct
import types
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.fake import fake_tfds
from tests.faults.table import Case, kind
from vpjax.core.errors import UserError
from vpjax.data import convert_inat, crc32c, holdout, idx, images, tfrecord
from vpjax.data.cifar import open_cifar
from vpjax.data.class_names import named
from vpjax.data.open import open_source
from vpjax.data.photo_paths import find_photos

CLASSES = ("ant", "bee", "cat")


def photo(path: Path, seed: int, kind: str = "PNG") -> Path:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)
    return path


def photos(folder: Path, count: int = 12) -> list[str]:
    """Write pictures into folder/images; return their names."""
    return [photo(folder / "images" / f"{i}.png", i).name for i in range(count)]


def listed(name: str, *splits: str):
    """Return what reads splits of a list, whose whole is compared."""

    def read():
        sources = [open_source(name, split) for split in splits]
        return [(s.classes, s.records.names, s.labels().tolist()) for s in sources]

    return read


@kind("csv list")
def csv_list(folder: Path) -> Case:
    rows = [
        f"{n},{CLASSES[i % 3]},{('train', 'test')[i % 4 == 0]}"
        for i, n in enumerate(photos(folder))
    ]
    file = folder / "list.csv"
    file.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    return Case(file, listed(f"csv:{file}", "train", "test"))


@kind("fgvc list")
def fgvc(folder: Path) -> Case:
    names = photos(folder)
    for split in ("train", "val", "test"):
        (folder / f"{split}.json").write_text(json.dumps({n: i % 3 for i, n in enumerate(names)}))
    return Case(
        folder / "train.json",
        listed(f"fgvc:{folder}", "train", "test"),
        named=("train.json", "test.json", "fgvc:"),
    )


@kind("vtab1k list")
def vtab1k(folder: Path) -> Case:
    lines = [f"images/{n} {i % 3}" for i, n in enumerate(photos(folder))]
    (folder / "train800.txt").write_text("\n".join(lines))
    (folder / "test.txt").write_text("\n".join(lines))
    return Case(
        folder / "train800.txt",
        listed(f"vtab1k:{folder}", "train800", "test"),
        named=("train800.txt", "vtab1k:"),
    )


@kind("zhou list")
def zhou(folder: Path) -> Case:
    rows = [[n, i % 3, CLASSES[i % 3]] for i, n in enumerate(photos(folder))]
    file = folder / "split_zhou.json"
    file.write_text(json.dumps({"train": rows, "val": rows, "test": rows}))
    return Case(file, listed(f"zhou:{file}", "train", "test"))


def _birds(folder: Path, damage: str) -> Case:
    names = photos(folder)
    (folder / "images.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(names)))
    (folder / "image_class_labels.txt").write_text(
        "".join(f"{i} {i % 3}\n" for i in range(len(names)))
    )
    (folder / "train_test_split.txt").write_text(
        "".join(f"{i} {int(i < 9)}\n" for i in range(len(names)))
    )
    (folder / "classes.txt").write_text("".join(f"{i} {c}\n" for i, c in enumerate(CLASSES)))
    return Case(
        folder / damage,
        listed(f"cub:{folder}", "train", "test"),
        named=(damage, "images.txt", "image_class_labels.txt", "cub:"),
    )


for _name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"):
    kind(f"cub {_name}")(lambda folder, name=_name: _birds(folder, name))


@kind("gtsrb table")
def gtsrb(folder: Path) -> Case:
    for i in range(6):
        photo(folder / "Training" / f"0000{i % 3}" / f"{i}.ppm", i, "PPM")
        photo(folder / "Final_Test" / "Images" / f"{i}.ppm", i, "PPM")
    file = folder / "GT-final_test.csv"
    file.write_text("Filename;Width;ClassId\n" + "".join(f"{i}.ppm;8;{i % 3}\n" for i in range(6)))
    return Case(file, listed(f"gtsrb:{folder}", "train", "test"), named=(file.name, "gtsrb:"))


@kind("list for predict")
def predict_list(folder: Path) -> Case:
    file = folder / "some.csv"
    rows = "".join(f"images/{n},{CLASSES[i % 3]}\n" for i, n in enumerate(photos(folder)))
    file.write_text("path,label\n" + rows)
    return Case(file, lambda: find_photos([file]))


@kind("names of classes, text")
def class_names(folder: Path) -> Case:
    file = folder / "names.txt"
    file.write_text("0, black ant\n1, honey bee\n2, house cat\n")
    return Case(file, lambda: named(("0", "1", "2"), [{}] * 3, str(file)))


@kind("names of classes, JSON")
def class_names_json(folder: Path) -> Case:
    file = folder / "names.json"
    file.write_text(json.dumps({"0": "black ant", "1": "honey bee", "2": "house cat"}))
    return Case(file, lambda: named(("0", "1", "2"), [{}] * 3, str(file)))


def _inat(folder: Path) -> None:
    for i in range(4):
        photo(folder / "2021" / "train" / "a" / f"{i}.jpg", i, "JPEG")
    names = ("Apis mellifera", "Felis catus")
    categories = [
        {"id": i, "name": n, "genus": n.split()[0], "family": "f", "order": "o"}
        for i, n in enumerate(names)
    ]
    (folder / "categories.json").write_text(json.dumps(categories))
    content = {
        "images": [{"id": i, "file_name": f"train/a/{i}.jpg"} for i in range(4)],
        "annotations": [{"image_id": i, "category_id": i % 2} for i in range(4)],
    }
    for split in ("train", "val"):
        (folder / f"{split}2021.json").write_text(json.dumps(content))


@kind("iNaturalist annotations")
def inat_annotations(folder: Path) -> Case:
    _inat(folder)
    read = lambda: open_source("inat2021", "train", folder).labels().tolist()  # noqa: E731
    return Case(folder / "train2021.json", read, named=("train2021.json", "inat2021"))


@kind("iNaturalist categories")
def inat_categories(folder: Path) -> Case:
    _inat(folder)
    read = lambda: open_source("inat2021", "train", folder).metadata  # noqa: E731
    return Case(
        folder / "categories.json",
        read,
        named=("categories.json", "inat2021", str(folder)),
    )


@kind("iNaturalist converted")
def inat_converted(folder: Path) -> Case:
    _inat(folder)

    def read():
        convert_inat.convert_inat(folder, "2021")
        outside = [p for p in folder.parent.iterdir() if "escaped" in p.name]
        assert not outside
        return

    return Case(folder / "categories.json", read, named=("categories.json", str(folder)))


def _tfds(folder: Path, damage: str, name: str = "cifar10") -> Case:
    place = fake_tfds(folder, name, {"train": 20, "test": 10})

    def read():
        source = open_source(name, "train", folder)
        return source.classes, len(source), len(source) and source[0]["label"]

    (file,) = place.glob(damage)
    return Case(file, read, named=(damage, str(place), name))


kind("TFDS dataset_info.json")(lambda folder: _tfds(folder, "dataset_info.json"))
kind("TFDS features.json")(lambda folder: _tfds(folder, "features.json"))
kind("TFDS labels")(lambda folder: _tfds(folder, "*labels.txt", "oxford_flowers102"))


@kind("index of a TFRecord file")
def tfrecord_index(folder: Path) -> Case:
    payloads = [bytes([i]) * (5 + i) for i in range(9)]
    parts = (struct.pack("<Q", len(p)) + b"\0" * 4 + p + b"\0" * 4 for p in payloads)
    (folder / "f").write_bytes(b"".join(parts))
    read = lambda: tfrecord.index(folder / "f").tolist()  # noqa: E731
    read()
    (kept,) = (folder / "cache" / "tfrecord").glob("*.npy")
    return Case(kept, read, same=True)


@kind("TFRecord lengths")
def tfrecord_file(folder: Path) -> Case:
    payloads = [bytes([i]) * (5 + i) for i in range(9)]
    parts = (struct.pack("<Q", len(p)) + b"\0" * 4 + p + b"\0" * 4 for p in payloads)
    (folder / "f.tfrecord").write_bytes(b"".join(parts))
    return Case(folder / "f.tfrecord", lambda: len(tfrecord.index(folder / "f.tfrecord")))


@kind("TFRecord, its records")
def tfrecord_records(folder: Path) -> Case:
    """With checksums, as TensorFlow writes them: what is read is what was written."""
    payloads = [bytes([i]) * (5 + 9 * i) for i in range(9)]
    lengths = [struct.pack("<Q", len(p)) for p in payloads]
    sums = [crc32c.masked(parts).tolist() for parts in (lengths, payloads)]
    pack = lambda number: struct.pack("<I", number)  # noqa: E731
    file = folder / "f.tfrecord"
    file.write_bytes(
        b"".join(
            length + pack(first) + payload + pack(second)
            for length, first, payload, second in zip(
                lengths, sums[0], payloads, sums[1], strict=True
            )
        )
    )
    piece = types.SimpleNamespace(filename=file, skip=0, take=9, examples_in_shard=9)

    def read():
        records = tfrecord.TFRecords([piece])
        try:
            return [records[i] for i in range(len(records))]
        except ValueError as error:  # which a source turns into a message of its own
            raise UserError(str(error)) from error

    return Case(file, read, same=True)


@kind("TFDS, its records")
def tfds_records(folder: Path) -> Case:
    place = fake_tfds(folder, "cifar10", {"train": 6, "test": 4})
    (file,) = place.glob("*train*array_record*")

    def read():
        source = open_source("cifar10", "train", folder)
        return [(source[i]["label"], source[i]["image"].sum()) for i in range(len(source))]

    return Case(file, read, named=("cifar10", file.name), most=60)


@kind("classes chosen by a file")
def chosen_classes(folder: Path) -> Case:
    for split in ("train", "test"):
        for name in CLASSES:
            photo(folder / "data" / split / name / "a.png", len(split + name))
    file = folder / "some.txt"
    file.write_text("ant\nbee\n")
    read = lambda: open_source(f"folder:{folder / 'data'}", "train", classes=str(file)).classes  # noqa: E731
    return Case(file, read, named=(file.name, "classes"))


@kind("list of held-out images")
def splits(folder: Path) -> Case:
    file = folder / "splits.csv"
    file.write_text(
        "path,label,split\n" + "".join(f"{i}.png,ant,{('train', 'val')[i % 2]}\n" for i in range(9))
    )
    return Case(file, lambda: holdout.read(file))


def _idx(folder: Path, damage: str) -> Case:
    for part, count in (("train", 6), ("t10k", 4)):
        head = struct.pack(">BBBBIII", 0, 0, 8, 3, count, 4, 4)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(range(16)) * count)
        head = struct.pack(">BBBBI", 0, 0, 8, 1, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            head + bytes(i % 2 for i in range(count))
        )
    read = lambda: len(idx.open_idx(str(folder), "train"))  # noqa: E731
    return Case(folder / damage, read, named=("train-", str(folder)))


kind("MNIST images")(lambda folder: _idx(folder, "train-images-idx3-ubyte"))
kind("MNIST labels")(lambda folder: _idx(folder, "train-labels-idx1-ubyte"))


@kind("CIFAR python batch")
def cifar(folder: Path) -> Case:
    import pickle

    place = folder / "cifar-10-batches-py"
    place.mkdir()
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"label_names": [f"c{i}".encode() for i in range(10)]}
    (place / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    read = lambda: open_cifar(str(folder), "test").labels().tolist()  # noqa: E731
    return Case(place / "test_batch", read)


def _picture(form: str) -> None:
    def made(folder: Path) -> Case:
        pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, form)
        for name in CLASSES:
            (folder / "train" / name).mkdir(parents=True)
            (folder / "train" / name / "a.png").write_bytes(data.getvalue())
        file = folder / "train" / "ant" / "a.png"

        def read():
            images.decode(file.read_bytes(), 3)
            return

        def through_source():
            source = open_source(f"folder:{folder}", "train")
            return [source[i]["image"].shape for i in range(len(source))] and None

        return Case(file, through_source if form == "PNG" else _told(read, file))

    kind(f"picture, {form}")(made)


def _told(read, file):
    """Return a reader that says of which file Pillow's many errors are, as `Source` does."""

    def told():
        try:
            return read()
        except Exception as error:
            raise UserError(f"{file.name}: {error}") from error

    return told


for _form in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "TGA", "PCX"):
    _picture(_form)
