"""Studies of few shots, and base to new: through the command line on photos and a tiny CLIP."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.photos import SPECIES, write_clip, write_folders
from tests.helpers.runs import cache_in, command, result
from vpjax.core.errors import UserError
from vpjax.studies.few_shot import (
    all_places,
    base_to_new_table,
    few_shot_table,
    harmonic_mean,
)

RECIPE = """
from ml_collections import ConfigDict
from vpjax.runs import defaults

def get_config(label):
    config = defaults.get_config()
    config.backbone = defaults.backbone("clip.CLIP", weights="{root}/clip")
    config.method = defaults.section("methods", "zero_shot.ZeroShot")
    config.data.update(name="folder:{root}/data", train="train", val="val", test="test", shots=2)
    config.data.eval_batch_size = 24
    config.text.templates = "coop"
    config.train.update(batch_size=8, steps=2)
    config.optim.update(name="adamw", lr=1e-2, lr_base_batch_size=0, no_decay="")
    config.draw = config.curves = False
    config.features = "cached"
    config.study.name = label
    config.study.seeds = (1, 2)
    config.study.shots = (1, 2)
    other = {"data": {"name": "folder:{root}/other"}}
    config.study.suite = ConfigDict({"all": {}} | ({"few": other} if label != "few_shot" else {}))
    config.study.compare = ConfigDict({
        "zero_shot": {},
        "clip_adapter": {"method": {"name": "clip_adapter.CLIPAdapter"}},
        "tip": {"method": {"name": "tip_adapter.TipAdapter"}},
    })
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for name, test in (("data", 2), ("other", 3)):
        write_folders(folder / name, train=3, val=2, test=test)
    write_clip(folder / "clip")
    (folder / "few.py").write_text(RECIPE.replace("{root}", str(folder)))
    with cache_in(folder / "cache"):
        yield folder


def study(place: Path, name: str, *more: str):
    words = [f"--config={place / 'few.py'}:{name}", f"--workdir={place / name}", *more]
    return command("ablate", *words)


@pytest.fixture(scope="module")
def base_to_new(place):
    done = study(place, "base_to_new")
    assert done.returncode == 0, done.stderr_text
    return place / "base_to_new", done.stdout_text


def config_of(place, name):
    namespace = {}
    exec((place / "few.py").read_text(), namespace)
    return namespace["get_config"](name)


def test_base_to_new(base_to_new):
    folder, said = base_to_new
    rows = json.loads((folder / "base_to_new.json").read_text())
    assert len(rows) == 2 * 3 * 2 and {r["seed"] for r in rows} == {1, 2}
    for row in rows:
        run = folder / row["data"] / row["method"] / f"seed{row['seed']}"
        known = result(run)
        assert row["base"] == known["test_accuracy"]
        classes = json.loads((run / "classes.json").read_text())["names"]
        assert classes == sorted(s[0] for s in SPECIES)[:4]
        assert (row["new"] is None) == (row["method"] == "tip")
        if row["new"] is not None:
            new = json.loads((run / "evaluations" / "1" / "evaluation.json").read_text())
            assert row["new"] == new["test"]["accuracy"]
            with (run / "evaluations" / "1" / "per_class.csv").open() as file:
                table = list(csv.DictReader(file))
            assert [r["class"] for r in table] == sorted(s[0] for s in SPECIES)[4:]
    text = (folder / "base_to_new.md").read_text()
    assert text.strip() in said and text.count("mean of 2") == 3
    # H of data sets is that of the averages, not the average of their H.
    own = [r for r in rows if r["method"] == "clip_adapter"]
    base, new = (np.mean([r[k] for r in own]) for k in ("base", "new"))
    line = next(t for t in text.splitlines() if "clip_adapter" in t and "mean of 2" in t)
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells[2:5] == [f"{v:.2f}" for v in (base, new, harmonic_mean(base, new))]


def test_a_study_that_is_done_is_read(place, base_to_new):
    before = (base_to_new[0] / "base_to_new.json").read_text()
    done = study(place, "base_to_new")
    assert done.returncode == 0 and "finished before" in done.stdout_text
    assert (base_to_new[0] / "base_to_new.json").read_text() == before
    assert not list(base_to_new[0].glob("**/evaluations/2"))


def test_shots(place):
    done = study(place, "few_shot", "--config.study.cells=('zero_shot','tip')")
    assert done.returncode == 0, done.stderr_text
    folder = place / "few_shot"
    rows = json.loads((folder / "few_shot.json").read_text())
    assert len(rows) == 2 * 2 * 2
    assert (folder / "few_shot.png").exists()
    images = result(folder / "all" / "tip" / "shots1" / "seed2")["data"]
    assert images["train"]["images"] == images["val"]["images"] == len(SPECIES)
    assert images["test"]["images"] == 2 * len(SPECIES)
    text = (folder / "few_shot.md").read_text()
    assert "1 shot (%)" in text and "2 shots (%)" in text
    # Zero-shot CLIP sees no image: all seeds and shots agree.
    values = {r["accuracy"] for r in rows if r["method"] == "zero_shot" and r["data"] == "all"}
    assert len(values) == 1


@pytest.mark.parametrize("method", ["tip", "linear"])
def test_what_is_bound_to_its_classes_is_refused_for_others(place, base_to_new, method):
    folder = base_to_new[0] / "all" / "tip" / "seed1"
    if method == "linear":
        folder = place / "linear"
        config = config_of(place, "")
        config.study.compare = {}
        done = linear(config, folder)
        assert done["test_count"] == 8
    done = command("eval", f"--workdir={folder}", "--config.data.classes=new")
    assert done.returncode == 2
    assert "has parameters for each class, so it cannot be evaluated on" in done.stderr_text
    assert len(done.stderr_text.strip().splitlines()) == 1


def linear(config, folder):
    from vpjax.runs import config as configs
    from vpjax.runs.fit import fit

    changes = {"method": {"name": "finetune.Linear"}, "data": {"classes": "base"}}
    return fit(configs.merged(config, changes), folder)


def test_other_classes_by_name_and_of_all(place, base_to_new):
    """Also in another order, and with those it was trained on."""
    folder = base_to_new[0] / "all" / "clip_adapter" / "seed1"
    done = command("eval", f"--workdir={folder}", "--config.data.classes=")
    assert done.returncode == 0 and "16 images" in done.stdout_text, done.stderr_text
    some = f"--config.data.classes={SPECIES[6][0]},{SPECIES[0][0]}"
    done = command("eval", f"--workdir={folder}", some)
    assert done.returncode == 0 and "4 images" in done.stdout_text, done.stderr_text
    done = command("eval", f"--workdir={folder}")
    assert "equal to the recorded test accuracy" in done.stdout_text


def test_harmonic_means():
    assert harmonic_mean(69.34, 74.22) == pytest.approx(71.70, abs=0.005)  # published
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.005)
    assert harmonic_mean(50.0, None) is None and harmonic_mean(0.0, 50.0) == 0


def test_tables_of_runs_that_failed_or_are_to_come():
    rows = [
        {"data": "a", "method": "m", "shots": 2, "seed": 1, "accuracy": 50.0},
        {"data": "a", "method": "m", "shots": 4, "seed": 1, "failed": "no memory"},
        {"data": "b", "method": "m", "shots": 2, "seed": 1, "accuracy": 70.0},
    ]
    lines = few_shot_table(rows).splitlines()
    assert "60.00" in lines[-1] and lines[-1].split("|")[-2].strip() == "-"
    rows = [{"data": "", "method": "m", "shots": 2, "seed": 1, "base": 80.0, "new": None}]
    line = base_to_new_table(rows).splitlines()[-1]
    assert [c.strip() for c in line.strip("|").split("|")] == [
        "m",
        "-",
        "80.00",
        "-",
        "-",
        "1",
    ]


def test_what_a_study_needs(place):
    config = config_of(place, "few_shot")
    config.study.seeds = ()
    with pytest.raises(UserError, match="study.seeds"):
        list(all_places(config, place, (1,), {}))
    config = config_of(place, "few_shot")
    config.data.test = ""
    with pytest.raises(UserError, match="data.test is empty"):
        list(all_places(config, place, (1,), {}))
    done = study(place, "few_shot", "--config.data.shots=4")
    assert done.returncode == 2 and "study.shots sets it in every run" in done.stderr_text
    done = study(place, "few_shots")
    assert done.returncode == 2 and "Did you mean 'few_shot'" in done.stderr_text
