"""docs/security.md, line by line: what is read is never run, and never leads elsewhere."""

import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.data.fake import fake_tfds
from tests.helpers import results, torch_files
from vpjax.core import pickle_check, unpack
from vpjax.core.errors import UserError
from vpjax.data import convert_inat, decoders, idx, images
from vpjax.data.cifar import open_cifar
from vpjax.data.open import open_source
from vpjax.report.run_page import write_run_page
from vpjax.report.write import report
from vpjax.runs.share import shared_files
from vpjax.weights import formats

HOME = Path(__file__).resolve().parents[1]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def picture(path, form="PNG", seed=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, form)
    return path


# Images


def test_images_are_opened_in_one_place():
    opened = [
        path.relative_to(HOME)
        for place in ("vpjax", "configs")
        for path in (HOME / place).rglob("*.py")
        if re.search(r"Image\.open\(|imread\(", path.read_text())
    ]
    assert opened == [Path("vpjax/data/decoders.py")]


def test_no_image_starts_a_program(tmp_path, monkeypatch):
    said = tmp_path / "RAN"
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin64c", "djpeg", "convert"):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} >> {said}\necho 10.0\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    dos = struct.pack("<4sIIIIIIh", b"\xc5\xd0\xd3\xc6", 32, len(EPS), 0, 0, 0, 0, -1)
    for data in (EPS, dos.ljust(32, b"\0") + EPS, b"\n" + EPS):
        with pytest.raises(ValueError, match="no known image format"):
            images.decode(data)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "a.jpg").write_bytes(EPS)
    picture(tmp_path / "train" / "bee" / "b.png")
    source = open_source(f"folder:{tmp_path}", "train")
    with pytest.raises(UserError, match=r"a\.jpg"):
        [source[i] for i in range(2)]
    assert not said.exists()


@pytest.mark.parametrize("form", ["EPS", "ICNS", "SGI", "SPIDER", "MSP", "XBM", "ICO"])
def test_formats_that_are_not_on_the_list(form):
    data, mode = io.BytesIO(), {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(form, "RGB")
    Image.new(mode, (32, 32)).save(data, form)
    with pytest.raises(ValueError, match="no known image format"):
        images.decode(data.getvalue())
    assert form not in decoders.allowed()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "PCX", "TGA"])
def test_formats_that_are(form):
    data = io.BytesIO()
    Image.new("RGB", (8, 6), "white").save(data, form)
    assert images.decode(data.getvalue(), 3).shape == (6, 8, 3)


def test_a_picture_that_promises_more_than_it_may():
    for form, more in (("PNG", {}), ("TIFF", {"compression": "group4"})):
        data = io.BytesIO()
        Image.new("1", (20000, 20000)).save(data, form, **more)
        assert len(data.getvalue()) < 2**20
        with pytest.raises(images.TooLarge, match=r"data\.max_pixels"):
            images.decode(data.getvalue())


# Paths


@pytest.mark.parametrize(
    "name", ["../../../escaped", "/nowhere/escaped", "..", "a/b", "a\\b", "", "x\n"]
)
def test_names_of_categories_stay_below_the_root(tmp_path, name):
    root = tmp_path / "root"
    for i in range(2):
        picture(root / "2021" / "train" / "a" / f"{i}.jpg", "JPEG", i)
    names = [name, "Felis catus"]
    facts = {"genus": "g", "family": "f", "order": "o"}
    content = [{"id": i, "name": n, **facts} for i, n in enumerate(names)]
    (root / "categories.json").write_text(json.dumps(content))
    files = [{"id": i, "file_name": f"train/a/{i}.jpg"} for i in range(2)]
    marks = [{"image_id": i, "category_id": i} for i in range(2)]
    for split in ("train", "val"):
        (root / f"{split}2021.json").write_text(json.dumps({"images": files, "annotations": marks}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="the category 0 of .* is no name of a file or folder"):
        convert_inat.convert_inat(root, "2021")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "{top}/out.png"])
def test_listed_files_stay_below_the_list(tmp_path, name):
    name = name.format(top=tmp_path)
    picture(tmp_path / "out.png")
    picture(tmp_path / "data" / "a" / "in.png", seed=1)
    rows = [(name, "0"), ("a/in.png", "1")]
    (tmp_path / "data" / "l.csv").write_text("".join(f"{n},{k}\n" for n, k in rows))
    (tmp_path / "data" / "train.txt").write_text("".join(f"{n} {k}\n" for n, k in rows))
    (tmp_path / "data" / "train.json").write_text(json.dumps({n: int(k) for n, k in rows}))
    zhou = {"train": [[n, int(k), k] for n, k in rows]}
    (tmp_path / "data" / "z.json").write_text(json.dumps(zhou))
    (tmp_path / "data" / "test.json").unlink(missing_ok=True)
    for where in ("csv:{}/l.csv", "vtab1k:{}", "zhou:{}/z.json"):
        with pytest.raises(UserError, match="lies outside of"):
            open_source(where.format(tmp_path / "data"), "train")
    (tmp_path / "data" / "z.json").unlink()
    with pytest.raises(UserError, match="lies outside of"):
        open_source(f"fgvc:{tmp_path}/data", "train")
    assert len(open_source("csv:data/l.csv", "train", tmp_path)) == 2  # both below data.dir


def test_shards_and_features_of_prepared_data(tmp_path, monkeypatch):
    place = fake_tfds(tmp_path / "d", "cifar10", {"train": 12})
    info, features = (
        json.loads((place / n).read_text()) for n in ("dataset_info.json", "features.json")
    )
    (tmp_path / "strange_module.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    evil = json.loads(json.dumps(features))
    inside = evil["featuresDict"]["features"]["label"]
    inside["pythonClassName"] = "strange_module.Feature"
    (place / "features.json").write_text(json.dumps(evil))
    with pytest.raises(UserError, match=r"features\.json has a feature of the class"):
        open_source("cifar10", "train", tmp_path / "d")
    assert not (tmp_path / "RAN").exists() and "strange_module" not in sys.modules
    (place / "features.json").write_text(json.dumps(features))
    outside = json.loads(json.dumps(info))
    outside["splits"][0]["filepathTemplate"] = (
        "../../../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    (place / "dataset_info.json").write_text(json.dumps(outside))
    with pytest.raises(UserError, match=r"outside of the folder|cannot be read"):
        open_source("cifar10", "train", tmp_path / "d")
    many = json.loads(json.dumps(info))
    many["splits"][0]["shardLengths"] = ["999999999999"]
    (place / "dataset_info.json").write_text(json.dumps(many))
    with pytest.raises(UserError, match="promises 999,999,999,999 examples"):
        open_source("cifar10", "train", tmp_path / "d")


def test_an_index_of_weights_names_files_beside_it(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / "x.safetensors")
    (tmp_path / "m").mkdir()
    for name in ("../x.safetensors", str(tmp_path / "x.safetensors")):
        file = tmp_path / "m" / "model.safetensors.index.json"
        file.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match=r"weight_map: .* is no name of a file"):
            formats.read(file)


def test_links_that_lead_out_of_a_run(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("2026-01-01 10:00:00 the-secret\n")
    picture(tmp_path / "secret.png")
    run = results.write(tmp_path / "runs" / "a" / "seed0", results.config_of("fgvc", "cub"), 80.0)
    (run / "log.txt").unlink()
    for name in ("log.txt", "per_class.csv", "model_card.md"):
        (run / name).symlink_to(secret)
    (run / "curves.png").symlink_to(tmp_path / "secret.png")
    (run / "other.png").symlink_to(tmp_path / "secret.png")
    write_run_page(run)
    report(tmp_path / "runs")
    for page in (run / "run.html", *(tmp_path / "runs").glob("report.*")):
        text = page.read_text()
        assert "the-secret" not in text and "curves.png" not in text and "other.png" not in text
    assert not {p.name for p in shared_files(run)} & {"per_class.csv", "curves.png", "other.png"}
    (run / "result.json").rename(tmp_path / "result.json")
    (run / "result.json").symlink_to(tmp_path / "result.json")
    report(tmp_path / "runs")
    assert "leads out of the run" in (tmp_path / "runs" / "report.md").read_text()


# Pickles and sizes


class _Evil:
    def __reduce__(self):
        return os.system, ("echo ran > RAN",)


def test_no_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps({b"data": _Evil(), b"label_names": _Evil()}))
    with pytest.raises(UserError, match="which no batch needs"):
        open_cifar(str(folder), "train")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("n/data.pkl", pickle.dumps({"w": _Evil()}))
    with pytest.raises(UserError):
        formats.read(tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", w=np.array([_Evil()], object))
    with pytest.raises(UserError, match="Python objects"):
        formats.read(tmp_path / "w.npz")
    assert not (tmp_path / "RAN").exists()


DAG = b")q\x00" + b"".join(b"h" + bytes([i, 104, i]) + b"\x86q" + bytes([i + 1]) for i in range(40))
PROGRAMS = {
    "a table of 2**31 places": b"}r\xff\xff\xff\x7f",
    "a text of terabytes": b"\x8d" + struct.pack("<Q", 2**42),
    "bytes of terabytes": b"\x8e" + struct.pack("<Q", 2**42),
    "a frame of terabytes": b"\x95" + struct.pack("<Q", 2**42),
    "nested tuples as a key": b"}" + DAG + b"Ns",
    "nested tuples in a set": b"\x8f(" + DAG + b"\x90",
    "a frozen set of nested tuples": b"(" + DAG + b"\x91",
    "too many classes": b"".join(b"ca%d\nB\n0" % i for i in range(10_001)) + b"N",
    "a stack that is empty": b"0",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_pickles_that_take_all(tmp_path, name):
    data = b"\x80\x04" + PROGRAMS[name] + b"."
    with pytest.raises(pickle_check.Refused):
        pickle_check.check(io.BytesIO(data), len(data))
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("n/data.pkl", data)
    with pytest.raises(UserError, match=r"w\.pth"):
        formats.read(tmp_path / "w.pth")


def test_lists_that_hold_themselves_over_and_over(tmp_path):
    # From the top down, so that each is small when it is put into the next.
    program = b"".join(b"]q" + bytes([i]) + b"0" for i in range(41))
    for i in range(40, 0, -1):
        program += b"h" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 2 + b"e0"
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("n/data.pkl", b"\x80\x04" + program + b"h\x28.")
    with pytest.raises(UserError, match=r"w\.pth"):
        formats.read(tmp_path / "w.pth")
    with pytest.raises(UserError, match="over and over"):
        formats.shapes(tmp_path / "w.pth")


def npy(shape, kind="<f4"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_arrays_that_promise_more_than_there_is(tmp_path):
    for shape in ("(1099511627776,)", "(4294967296, 4294967296, 4294967296)", "(-4,)", "(3,)"):
        with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
            archive.writestr("x.npy", npy(shape) + b"\0" * 8)
        for read in (formats.read, formats.shapes):
            with pytest.raises(UserError, match="says it has"):
                read(tmp_path / "w.npz")
        with pytest.raises(ValueError, match="says it has"):
            data = npy(shape) + b"\0" * 8
            unpack.read_npy(io.BytesIO(data), len(data))
    table = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}
    for offsets in ([0, 8], [0, 2**42], [-8, 8], [8, 0]):
        table["x"]["data_offsets"] = offsets
        text = json.dumps(table).encode()
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
        for read in (formats.read, formats.shapes):
            with pytest.raises(UserError, match=r"w\.safetensors"):
                read(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**50) + b'{"x":1}')
    with pytest.raises(UserError, match="cut off"):
        formats.read(tmp_path / "w.safetensors")


def test_archives_that_unpack_a_thousandfold(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy("(17039360,)") + b"\0" * (65 << 20))
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("n/data.pkl", b"\x80\x04}.")
        archive.writestr("n/data/0", b"\0" * (65 << 20))
    with zipfile.ZipFile(tmp_path / "l.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy("(2,)") + b"\0" * 8)
    for name in ("w.npz", "w.pth"):
        assert (tmp_path / name).stat().st_size < 2**20
        with pytest.raises(UserError, match="the limit is 20 times its size"):
            formats.read(tmp_path / name)
    with pytest.raises(UserError, match="compressed in a way that is not read"):
        formats.read(tmp_path / "l.npz")
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">BBBBIII", 0, 0, 8, 3, 16640, 64, 64) + b"\0" * (65 << 20))
    with pytest.raises(UserError, match="20 times its size"):
        idx.read(tmp_path / "train-images-idx3-ubyte.gz")


def test_a_view_that_promises_more_than_the_file(tmp_path):
    arrays = {"w": np.broadcast_to(np.ones(1, np.float16), (2**40,))}
    file = torch_files.write(tmp_path / "w.pth", {"model": {"w": np.ones(6, np.float16)}})
    with zipfile.ZipFile(file) as archive:
        content = {n: archive.read(n) for n in archive.namelist()}
    (name,) = (n for n in content if n.endswith("data.pkl"))
    assert arrays["w"].size == 2**40
    # The shape (6,) and the strides (1,) become (2 ** 40,) and (0,).
    small = pickle.dumps((6,), protocol=2)[2:-1].rstrip(b"q\x00").rstrip(b".")
    assert b"K\x06" in content[name] and small
    big = content[name].replace(b"K\x06\x85", b"\x8a\x06" + struct.pack("<Q", 2**40)[:6] + b"\x85")
    with zipfile.ZipFile(file, "w") as archive:
        for n, data in content.items():
            archive.writestr(n, big if n == name else data)
    for read in (formats.read, formats.shapes):
        with pytest.raises(UserError, match=r"1,099,511,627,776 numbers"):
            read(file)


def test_honest_files_are_below_the_limits(tmp_path):
    arrays = {"zeros": np.zeros((2000, 2000), np.float32), "ones": np.ones(4, np.float16)}
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    torch_files.write(tmp_path / "w.pth", {"model": arrays})
    for name in ("w.npz", "w.pth"):
        assert formats.read(tmp_path / name)["zeros"].shape == (2000, 2000)


# The page


def test_every_page_that_is_written_says_what_may_run():
    text = (HOME / "docs" / "security.md").read_text()
    for form in decoders.FORMATS:
        assert form.replace("JPEG2000", "JPEG 2000").casefold() in text.casefold(), form
    assert f"{unpack.TIMES} times" in text and f"{unpack.FREE >> 20} MiB" in text
    assert f"{pickle_check.STEPS:,} and {pickle_check.CLASSES:,}" in text
    assert f"{images.PLAIN.max_pixels:,}" in text


def test_a_folder_that_is_worked_in_shadows_no_module(tmp_path):
    """The working folder is the last place in which modules are looked for."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported')\n")
    command = [sys.executable, str(HOME / "main.py"), "report", "--workdir", str(tmp_path)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "imported" not in done.stderr + done.stdout
