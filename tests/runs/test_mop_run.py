"""MoP-CLIP from the command line: photos as iNaturalist lays them out, and a tiny CLIP on disk."""

import csv
import dataclasses
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import vpjax
from configs import mop_ablate, mop_inat, vpt_cifar224
from tests.cli.test_main import wait_for
from tests.data.fake import fake_tfds
from tests.helpers import clip as files
from tests.helpers.photos import SPECIES, VAL, write_clip, write_data
from tests.helpers.runs import cache_in, command, digests, main, newest, result
from vpjax.core.errors import UserError
from vpjax.data import open_source
from vpjax.report.plots.run import subject
from vpjax.report.plots.subject import Subject, SubpromptOptions
from vpjax.report.plots.subprompts import subprompts
from vpjax.runs.config import merged
from vpjax.runs.experiment import ClassInfo, prepare, text_features
from vpjax.runs.features import with_cached_features
from vpjax.runs.zero_shot import zero_shot
from vpjax.studies.ablate import ablate

PROMPTS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with data and clip, and a cache of features that all commands share."""
    folder = tmp_path_factory.mktemp("mop")
    write_data(folder / "data")
    write_clip(folder / "clip")
    with cache_in(folder / "cache"):
        yield folder


def options(place: Path, recipe: str = "mop_inat.py", **changes) -> list[str]:
    chosen = {
        "backbone.weights": place / "clip",
        "data.dir": place / "data",
        "data.eval_batch_size": 8,
        "features": "cached",
        "method.num_prompts": PROMPTS,
        "optim.lr": 0.02,
        "optim.warmup_steps": 10,
        "train.batch_size": 16,
        "train.steps": 300,
        "train.eval_every": 4,
        "train.save_every": 0,
        "draw": False,
    } | changes
    return [f"--config=configs/{recipe}", *(f"--config.{k}={v}" for k, v in chosen.items())]


@pytest.fixture(scope="module")
def run(place) -> Path:
    """A run that was killed, and went on."""
    folder = place / "run"
    process = main(*options(place), f"--workdir={folder}", wait=False)
    wait_for(process, folder)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert "computed once" in out and not (folder / "result.json").exists()
    again = main(*options(place), f"--workdir={folder}")
    assert again.returncode == 0, again.stderr_text
    assert "resumed at step" in again.stdout_text and "computed once" not in again.stdout_text
    return folder


def table(text: str) -> dict[str, str]:
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


def test_a_killed_run_ends_as_one_that_was_not(place, run):
    whole = main(*options(place), f"--workdir={place / 'whole'}")
    assert whole.returncode == 0, whole.stderr_text
    assert digests(run) == digests(place / "whole")
    one, other = result(run), result(place / "whole")
    assert one["cached_features"] and one["trainable"] == len(SPECIES) * PROMPTS * files.JOINT
    for key in ("val_accuracy", "val_loss", "best_val_step", "val_genus", "val_margin"):
        assert one[key] == other[key]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    taus = [(line["step"], line["tau"]) for line in lines if "tau" in line]
    assert taus == sorted(set(taus), key=lambda pair: (pair[0], -pair[1]))
    # The mean over the last steps before 300: from 1 in equal steps to 0.05.
    assert taus[-1][1] == pytest.approx(0.05, abs=0.08) and taus[0][1] > 0.85
    assert one["val_accuracy"] > 60


def test_evaluation_has_levels_groups_and_classes(run):
    done = command("eval", f"--workdir={run}")
    assert done.returncode == 0, done.stderr_text
    assert "equal to the recorded val accuracy" in done.stdout_text
    said, known = table(done.stdout_text), result(run)
    assert said["accuracy"] == f"{known['val_accuracy']:.2f} %"
    for level in ("genus", "family", "order"):
        assert said[f"{level} right"] == f"{known[f'val_{level}']:.2f} %"
    assert known["val_accuracy"] <= known["val_genus"] <= known["val_family"]
    assert said["order right"] == "100.00 %"
    assert "medium-shot (2 classes, 8 images)" in said and "few-shot (6 classes, 24 images)" in said
    assert 0 < float(said["margin (softmax of 714.3 cosines)"]) <= 1
    written = json.loads((run / "evaluation.json").read_text())
    assert written["checkpoint"] == "best" and written["step"] == known["step"]
    assert written["val"]["genus"] == known["val_genus"]
    with open(run / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert [r["class"] for r in rows] == [s[0] for s in SPECIES]
    assert [int(r["training_images"]) for r in rows] == [s[-1] for s in SPECIES]
    assert {r["images"] for r in rows} == {str(VAL)}
    right = sum(int(r["correct"]) for r in rows)
    assert 100 * right / (VAL * len(SPECIES)) == pytest.approx(known["val_accuracy"])


def test_rows_that_pad_the_classes_are_not_saved(place):
    folder = place / "split"
    few = {"train.steps": 8, "train.batch_size": 15, "data.eval_batch_size": 6}
    split = options(place, **few, **{"mesh.data": 1, "mesh.model": 3})
    done = command("train", *split, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr_text
    meta = json.loads((newest(folder) / "meta" / "metadata").read_text())
    assert meta["arrays"]["trainable"]["method/offsets"][0] == len(
        SPECIES
    )  # not 9, a multiple of 3
    assert vpjax.load_run(folder).model.method.offsets.shape[0] == len(SPECIES)
    for devices in ("1", "2", "3"):
        done = command("eval", f"--workdir={folder}", f"--config.mesh.model={devices}")
        assert "equal to the recorded val accuracy" in done.stdout_text, done.stderr_text
    (folder / "result.json").unlink()
    again = options(place, **few, **{"mesh.data": 1, "mesh.model": 2})
    done = command("train", *again, f"--workdir={folder}")  # on other devices
    assert done.returncode == 0, done.stderr_text
    (folder / "result.json").unlink()
    shutil.rmtree(newest(folder, "best"))
    done = command("train", *again, f"--workdir={folder}")
    assert done.returncode == 2 and "holds no checkpoint any more" in done.stderr_text


def test_zero_shot(place):
    folder = place / "zero_shot"
    done = command("zero-shot", *options(place), f"--workdir={folder}")
    assert done.returncode == 0, done.stderr_text
    assert "96 prompts, such as 'a photo of a Monarch'" in done.stdout_text  # 8 x 2 names x 6
    found, said = result(folder), table(done.stdout_text)
    assert (found["method"], found["trainable"], found["cached_features"]) == ("zero_shot", 0, True)
    assert said["accuracy"] == f"{found['val_accuracy']:.2f} %"
    assert "margin (softmax of 100 cosines)" in said and "genus right" in said
    assert (folder / "per_class.csv").exists() and (folder / "evaluation.json").exists()
    with pytest.raises(UserError, match="belongs to a run with another config"):
        zero_shot(config_of(place, text__name_type="scientific"), folder)


def test_zero_shot_of_any_data_whose_classes_have_names(place, tmp_path, caplog):
    fake_tfds(tmp_path / "data", "cifar10", {"train": 20, "test": 10})
    config = merged(vpt_cifar224.get_config(), {"backbone": {"name": "clip.CLIP"}})
    config.backbone.weights, config.data.dir = str(place / "clip"), str(tmp_path / "data")
    config.data.eval_batch_size = config.train.batch_size = 8
    with caplog.at_level("INFO", logger="vpjax"):
        found = zero_shot(config, tmp_path / "run")
    assert (found["test_count"], found["val_count"], found["preset"]) == (10, 2, "clip")
    assert "val_genus" not in found and "val_few" not in found and "test_margin" in found
    assert "20 prompts, such as 'a photo of a 0'" in caplog.text
    assert "called 0, 1, 2 ...: numbers tell CLIP nothing" in caplog.text  # of the made-up data


def test_sub_prompts_of_a_class(run):
    words = ["plot", "--picture=subprompts", f"--workdir={run}"]
    done = command(*words, "--class_name=monarch", "--split=train", "--top_n=4")
    assert done.returncode == 0, done.stderr_text
    assert "danaus plexippus: 20 images of train" in done.stdout_text
    stem = run / "subprompts" / "class0_danaus_plexippus"
    for k in range(PROMPTS):
        pixels = np.asarray(Image.open(f"{stem}_k{k}.png"))
        assert pixels.shape == (2 * 226 + 2, 2 * 226 + 2, 3)
        np.testing.assert_allclose(pixels[2:226, 2:226].mean((0, 1)), SPECIES[0][4], atol=30)
    found = json.loads(Path(f"{stem}_usage.json").read_text())
    assert len(found["images"]) == 20 and sum(found["share"]) == pytest.approx(1)
    for row in found["images"]:
        assert row["image"].startswith("2021/train/00000_Danaus_plexippus/")
        assert sum(row["gamma"]) == pytest.approx(1, abs=1e-5)
    assert Path(f"{stem}_usage.png").exists() and Path(f"{stem}_usage.csv").exists()


@pytest.fixture(scope="module")
def whole(run) -> Subject:
    """The run, opened once."""
    return subject(run)


def drawn(whole: Subject, **options) -> dict:
    """The numbers written of a class."""
    options = SubpromptOptions(**options)
    files = subprompts(dataclasses.replace(whole, subprompt_options=options))
    return json.loads(next(f for f in files if f.suffix == ".json").read_text())


def test_temperature_and_labels_of_sub_prompts(whole):
    soft, sharp = drawn(whole, label=5, tau=50.0), drawn(whole, label=5, tau=0.01)
    assert soft["name"] == "pieris napi" and len(soft["images"]) == VAL
    assert soft["undecided"] > 0.9 > sharp["undecided"]
    config, step = whole.experiment.config, int(whole.state.step)
    tau = 0.05 + 0.95 * (1 - step / config.train.steps)
    own, given = drawn(whole, label=5), drawn(whole, label=5, tau=tau)
    for one, other in zip(own["images"], given["images"], strict=True):
        np.testing.assert_allclose(one["gamma"], other["gamma"], rtol=1e-3)
    assert own["class"] == drawn(whole, name="PIERIS NAPI")["class"] == 5
    assert drawn(whole)["class"] == 0  # of the first image


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "Danaus plexipus"}, "nearest names are 'danaus plexippus'"),
        ({"label": 8}, "has 8 classes"),
        ({"label": 1, "name": "monarch"}, "not both"),
        ({"label": 1, "tau": 0.0}, "above 0"),
        ({"label": 1, "top_n": 0}, "at least 1"),
        ({"label": 1, "split": "test"}, "split of the run"),
    ],
)
def test_classes_that_cannot_be_drawn(whole, options, match):
    with pytest.raises(UserError, match=match):
        drawn(whole, **options)


def test_the_sweep_of_k(place):
    words = options(place, "mop_k_sweep.py:k=1+2", **{"train.steps": 40})
    words = [w for w in words if "num_prompts" not in w]
    done = command(*words, f"--workdir={place / 'sweep'}")
    assert done.returncode == 0, done.stderr_text
    assert done.stdout_text.count("computed once") in (0, 2)  # by another run, or train and val
    rows = json.loads((place / "sweep" / "comparison.json").read_text())
    assert [r["label"] for r in rows] == ["K1", "K2"]
    assert [r["trainable"] for r in rows] == [8 * k * files.JOINT for k in (1, 2)]
    assert (place / "sweep" / "comparison.png").exists()


def config_of(place: Path, config: ConfigDict | None = None, **changes) -> ConfigDict:
    config = config or mop_inat.get_config()
    config.backbone.weights, config.data.dir = str(place / "clip"), str(place / "data")
    config.mesh.model, config.features = 1, "cached"
    for key, value in changes.items():
        section, _, option = key.partition("__")
        config[section][option] = value
    return config


def test_ablations(place):
    config = mop_ablate.get_config("subset=all")
    config_of(place, config, method__num_prompts=2, train__steps=4)
    config.study.cells, config.draw = ("all", "hard", "zero_init"), False
    cells = ablate(config, place / "ablation")
    assert [c["prompt_parameters"] for c in cells] == [8 * 2 * files.JOINT] * 3
    settings = json.loads((place / "ablation" / "hard" / "seed0" / "config.json").read_text())
    assert settings["method"]["assignment"] == "hard"
    assert (place / "ablation" / "ablation_mop.png").exists()


def test_a_clip_without_its_tokenizer(place, tmp_path, monkeypatch):
    monkeypatch.setattr("vpjax.models.text.tokenizer.elsewhere", lambda: iter(()))
    shutil.copytree(place / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "merges.txt").unlink()
    with pytest.raises(UserError, match="no CLIP tokenizer in .*(?s:.)*vocab.json and merges.txt"):
        prepare(config_of(place, backbone__weights=str(tmp_path / "clip")))
    config = config_of(place, backbone__weights=str(tmp_path / "clip"))
    config.text.tokenizer = str(place / "clip")
    assert with_cached_features(prepare(config)).identity["text"]


def of_classes(config, source):
    return text_features(config, ClassInfo(tuple(source.classes), source.metadata))


def test_a_class_without_a_name(place, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    for file in tmp_path.glob("data/*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [{"id": c["id"]} for c in content["categories"]]
        file.write_text(json.dumps(content))
    config = config_of(place, data__dir=str(tmp_path / "data"))
    source = open_source(config.data.name, "train", config.data.dir)
    with pytest.raises(UserError, match="needs 'name', but class 0"):
        of_classes(config, source)
    config.text.name_type = "both"
    with pytest.raises(UserError, match="class 0 has no name.*categories.json"):
        of_classes(config, source)


def test_features_and_augmentation_exclude_each_other(place):
    config = config_of(place, data__preset="imagenet_crop")
    with pytest.raises(
        UserError, match="features='cached' is not possible: .*augments training images"
    ):
        with_cached_features(prepare(config))


def test_names_on_the_same_words_have_other_features(place):
    """Zero-shot averages as they are, the mixture normalises before; each is kept by itself."""
    config = config_of(place)
    source = open_source(config.data.name, "train", config.data.dir)
    config.text.templates = "a photo of {name}; an image of {name}"
    one = of_classes(config, source)
    config.text.name_type = "scientific"
    other = of_classes(config, source)
    assert one.key != other.key
    assert 1e-6 < np.abs(one.values - other.values).max() < 0.5
    config.text.name_type = "scientfic"
    with pytest.raises(UserError, match="Did you mean 'scientific'"):
        of_classes(config, source)
