"""`predict` and `eval PATH`: real files, good and broken, in; every output read back."""

import csv
import io
import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

import vpjax
from tests.helpers.runs import command
from vpjax.data import open_source
from vpjax.report import answer_page
from vpjax.runs.predict import Answer, Tally

QUICK = {"steps": 6, "batch_size": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on digits, and folders of photos: good ones, odd ones, broken ones."""
    top = tmp_path_factory.mktemp("predict")
    source = open_source("digits/high", "test")
    examples = source.__getitems__(range(40))
    images = np.stack([e["image"] for e in examples])
    labels = np.array([e["label"] for e in examples])
    model = vpjax.create_model(vpjax.load_backbone("digits_vit"), "finetune.Linear", num_classes=5)
    pairs = {"train": (images, labels), "val": (images[:20], labels[:20])}
    run = vpjax.fit(model, **pairs, workdir=top / "run", **QUICK)
    for i in range(6):
        folder = top / "photos" / str(labels[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i, :, :, 0]).save(folder / f"{i}.png")
    (top / "odd").mkdir()
    grey = images[0, :, :, 0]
    Image.fromarray(grey).save(top / "odd" / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(top / "odd" / "deep.png")
    turned = Image.fromarray(np.stack([np.rot90(grey)] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned back by a quarter
    turned.save(top / "odd" / "turned.png", exif=exif)
    (top / "odd" / "broken.png").write_bytes((top / "odd" / "grey.png").read_bytes()[:60])
    (top / "odd" / "empty.jpg").write_bytes(b"")
    return types.SimpleNamespace(top=top, run=run, images=images, labels=labels)


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_what_cannot_be_read_is_named_and_the_rest_predicted(place, tmp_path):
    out = [tmp_path / name for name in ("o.csv", "o.jsonl", "o.html")]
    words = [word for path in out for word in ("--output", str(path))]
    done = command(
        "predict",
        f"--workdir={place.run.folder}",
        "--top_k=2",
        *words,
        str(place.top / "odd"),
        "nowhere.png",
    )
    assert done.returncode == 2 and done.stdout_text == ""
    assert "3 files could not be read" in done.stderr_text
    for name in ("nowhere.png: there is no such file", "odd/broken.png: ", "odd/empty.jpg: "):
        assert name in done.stderr_text
    assert not list(tmp_path.glob("*.part"))
    rows = table(out[0].read_text())
    assert [row["path"].rpartition("/")[2] for row in rows] == [
        "deep.png",
        "grey.png",
        "turned.png",
    ]
    # One picture in three kinds of file.
    assert {row["class"] for row in rows} == {rows[0]["class"]}
    shares = [float(row["probability"]) for row in rows]
    expected = place.run.predict(place.images[:1]).probabilities.max()
    np.testing.assert_allclose(shares, expected, atol=2e-3)
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    lines = [json.loads(line) for line in out[1].read_text().splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in rows]
    assert [line["top"][1]["class"] for line in lines] == [row["class_2"] for row in rows]
    page = out[2].read_text()
    assert page.count("<article") == 3 and page.count("data:image/png;base64,") == 3
    assert "odd/broken.png" in page and "3</b> could not be read" in page


def test_standard_input_and_accuracy_by_folders(place, monkeypatch):
    files = sorted(map(str, (place.top / "photos").rglob("*.png")))
    text = "\n".join([*files, "missing.png", ""]).encode()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))
    done = command("predict", f"--workdir={place.run.folder}", "--format=jsonl", "-")
    assert done.returncode == 2 and "missing.png: there is no such file" in done.stderr_text
    lines = [json.loads(line) for line in done.stdout_text.splitlines()]
    assert [line["path"] for line in lines] == files
    assert "accuracy" not in done.stderr_text  # nothing says what they are
    done = command("predict", f"--workdir={place.run.folder}", str(place.top / "photos"))
    rows = table(done.stdout_text)
    right = 100 * np.mean([row["class"] == row["true"] for row in rows])
    assert done.returncode == 0 and f"accuracy {right:.2f} %" in done.stderr_text


def test_folders_of_other_names_give_no_accuracy(place, tmp_path):
    for name in ("2", "holiday"):
        (tmp_path / name).mkdir()
        Image.fromarray(place.images[0, :, :, 0]).save(tmp_path / name / "1.png")
    done = command("predict", f"--workdir={place.run.folder}", str(tmp_path))
    assert "no accuracy: 1 images are of no class of the run (holiday)" in done.stderr_text
    assert "true" not in table(done.stdout_text)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/"], "none of 1 images can be read; the first is nowhere/"),
        (["--top_k=6", "x.png"], "--top_k is 6; the run has 5 classes"),
        (["--batch_size=0", "x.png"], "--batch_size is 0"),
        (["--output=a.xlsx", "x.png"], "unknown kind of file a.xlsx: '.xlsx'"),
        (["--output=no/where.csv", "x.png"], "there is no folder"),
    ],
)
def test_mistakes(place, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("predict", f"--workdir={place.run.folder}", *words)
    assert done.returncode == 2 and message in done.stderr_text
    assert not list(tmp_path.iterdir())


def test_from_python(place, tmp_path):
    run = vpjax.load_run(place.run.folder)
    odd = place.top / "odd"
    with pytest.raises(vpjax.UserError, match="broken.png"):
        run.predict(odd)
    found = run.predict(odd, skip_unreadable=True, batch_size=2)
    assert len(found) == 3 and found.seconds > 0
    assert sorted(p.rpartition("/")[2] for p in found.skipped) == ["broken.png", "empty.jpg"]
    assert "2 could not be read" in repr(found)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "bad.png").write_bytes(b"x")
    with pytest.raises(vpjax.UserError, match="none of 1 images can be read"):
        run.predict(tmp_path / "only", skip_unreadable=True)
    (tmp_path / "list.txt").write_text(f"{odd}/grey.png\n")
    assert run.predict(tmp_path / "list.txt").class_names == found.class_names[1:2]


def test_probabilities_at_the_temperature(place):
    run = vpjax.load_run(place.run.folder)
    cool, warm = (run.predict(place.images, calibrated=on) for on in (False, True))
    np.testing.assert_array_equal(cool.labels, warm.labels)
    logits = np.log(cool.probabilities) / run.temperature()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(warm.probabilities, expected, atol=1e-4)


def test_eval_of_labelled_photos(place, tmp_path):
    done = command("eval", f"--workdir={place.run.folder}", str(place.top / "photos"))
    assert done.returncode == 0, done.stderr_text
    folder = place.run.folder / "evaluations" / "1"
    there = {"evaluation.json", "predictions.csv", "per_class.csv", "mistakes.png"}
    assert there <= {p.name for p in folder.iterdir()}
    content = json.loads((folder / "evaluation.json").read_text())
    rows = table((folder / "predictions.csv").read_text())
    right = 100 * np.mean([row["correct"] == "1" for row in rows])
    assert len(rows) == 6 and content["test"]["accuracy"] == pytest.approx(right)
    assert vpjax.load_run(place.run.folder).evaluate(place.top / "photos")[
        "accuracy"
    ] == pytest.approx(right)


def test_eval_leaves_out_what_is_broken_and_refuses_other_classes(place, tmp_path):
    for name in ("0", "1"):
        (tmp_path / "some" / name).mkdir(parents=True)
    Image.fromarray(place.images[0, :, :, 0]).save(tmp_path / "some" / "0" / "good.png")
    (tmp_path / "some" / "1" / "bad.png").write_bytes(b"no picture")
    done = command("eval", f"--workdir={place.run.folder}", str(tmp_path / "some"))
    assert done.returncode == 2 and "1 files could not be read" in done.stdout_text
    assert "1/bad.png" in done.stdout_text and "1 images" in done.stdout_text
    (tmp_path / "some" / "55").mkdir()
    Image.fromarray(place.images[0, :, :, 0]).save(tmp_path / "some" / "55" / "1.png")
    done = command("eval", f"--workdir={place.run.folder}", str(tmp_path / "some"))
    assert done.returncode == 2 and "55 is no class of the run" in done.stderr_text
    (tmp_path / "some" / "55" / "1.png").unlink()
    (tmp_path / "some" / "0" / "good.png").write_bytes(b"")
    done = command("eval", f"--workdir={place.run.folder}", str(tmp_path / "some"))
    assert done.returncode == 2 and "none of 2 images can be read" in done.stderr_text


def test_a_page_is_bounded_and_fetches_nothing(tmp_path):
    big = tmp_path / "<b>&big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)).save(big)
    tally, file = Tally(), io.StringIO()
    page = answer_page.AnswerPage(file, "A <title>", "about", most=3)
    for _ in range(5):
        answer = Answer(str(big), (0, 1), ("cat", "dog"), (0.9, 0.1), (), 2.0, "dog")
        tally.add(answer)
        page.add(answer)
    page.close(tally)
    text = file.getvalue()
    assert text.count("<article") == 3 and "the first 3 are shown" in text
    assert "<b>&big" not in text and "&lt;b&gt;&amp;big.png" in text and "A &lt;title&gt;" in text
    assert len(text) < 3 * 60_000 and text.count("data-wrong>") == 3
    assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(", text)
