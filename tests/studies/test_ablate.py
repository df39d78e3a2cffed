"""Studies: cells, seeds, failures, resuming; tables with counted parameters."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import ablate_backbone, ablate_fusion, ablate_prompt_scale, msvp
from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.report.plots.ablation import backbones, choices
from vpjax.studies import ablate, cells


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def fusion():
    """The config of a study of two cells and two seeds."""
    config = ablate_fusion.get_config("data=digits,model=cnn,narrow=8")
    config.backbone.width, config.data.eval_batch_size = 4, 64
    config.train.update(steps=4, batch_size=32, eval_every=1.0, test_best=False)
    config.study.cells, config.study.seeds = ("add", "gated"), (0, 1)
    config.curves = config.draw = False
    return config


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study: its folder and its rows."""
    folder = tmp_path_factory.mktemp("study")
    return folder, ablate.ablate(fusion(), folder)


def test_every_cell_with_every_seed(study):
    folder, cells = study
    found = rows(folder / "ablation_fusion_results.csv")
    assert list(found[0])[:7] == [
        *("fusion_type", "dataset", "model", "val_acc", "test_acc", "test_loss", "best_epoch")
    ]
    assert [(r["fusion_type"], r["seed"]) for r in found] == [
        (f, s) for f in ("add", "gated") for s in "01"
    ]
    assert {r["model"] for r in found} == {"cnn"} and {r["use_prompt"] for r in found} == {"True"}
    assert {r["metric"] for r in found} == {"accuracy"}
    for r in found:
        result = runs.result(folder / r["fusion_type"] / f"seed{r['seed']}")
        assert float(r["test_acc"]) == result["test_accuracy"]
        assert float(r["val_acc"]) == result["best_val_accuracy"]
        steps = result["best_val_step"] / result["steps_per_epoch"]
        assert float(r["best_epoch"]) == pytest.approx(steps, abs=0.01)
    assert json.loads((folder / "ablation_fusion.json").read_text()) == cells
    tests = [float(r["test_acc"]) for r in found[:2]]
    assert cells[0]["test_acc"] == pytest.approx(np.mean(tests))
    assert cells[0]["test_acc_std"] == pytest.approx(np.std(tests))  # of the population
    assert [c["prompt_parameters"] for c in cells] == [81, 83]
    assert rows(folder / "ablation_fusion.csv")[1]["cell"] == "gated"
    text = (folder / "ablation_fusion.md").read_text()
    assert text == ablate.as_table(cells) + "\n" and f"{np.mean(tests):.2f} ± " in text
    assert np.asarray(Image.open(folder / "ablation_fusion.png").convert("L")).std() > 20


def test_a_study_resumes_and_a_failed_cell_does_not_stop_it(study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study[0], folder)
    shutil.rmtree(folder / "gated" / "seed1")
    results = sorted(folder.glob("*/*/result.json"))
    before = {p: p.stat().st_mtime_ns for p in results}
    bad = folder / "add" / "seed0"
    (bad / "result.json").unlink()
    config = json.loads((bad / "config.json").read_text())
    config["optim"]["lr"] = 7.0  # its checkpoints belong to another run now
    (bad / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="1 of 4 runs failed(?s:.)*add with seed 0"):
        ablate.ablate(fusion(), folder)
    kept = {p: p.stat().st_mtime_ns for p in results if p.exists() and p.parent != bad}
    assert kept == {p: t for p, t in before.items() if p in kept} and len(kept) == 2
    assert runs.result(folder / "gated" / "seed1")["status"] == "finished"
    found = json.loads((folder / "ablation_fusion.json").read_text())
    assert [c["seeds"] for c in found] == [1, 2]
    assert "optim.lr: 0.001 now, 7.0 there" in found[0]["failed"]
    assert found[0]["test_acc_std"] is None
    failed = rows(folder / "ablation_fusion_results.csv")[0]
    assert failed["status"] == "failed" and failed["test_acc"] == "" and failed["reason"]
    assert "Failed: add, seed 0" in (folder / "ablation_fusion.md").read_text()


def test_a_cell_that_cannot_be_and_one_that_diverges(tmp_path):
    config = fusion()
    config.study.seeds = (0,)
    config.study.compare = ConfigDict(
        {
            "typo": {"method": {"fusion_type": "addd"}},
            "nonsense": {"optim": {"name": "adamx"}},
            "wild": {"optim": {"lr": 1e30, "name": "sgd"}},
            "add": {"method": {"fusion_type": "add"}},
        }
    )
    config.study.cells = ("typo", "nonsense", "wild", "add")
    with pytest.raises(UserError, match="3 of 4 runs failed"):
        ablate.ablate(config, tmp_path)
    found = {c["cell"]: c for c in json.loads((tmp_path / "ablation_fusion.json").read_text())}
    assert "Did you mean 'add'" in found["typo"]["failed"]
    assert found["nonsense"]["failed"] and found["nonsense"]["test_acc"] is None
    assert "diverged" in found["wild"]["failed"]
    assert found["add"]["seeds"] == 1
    assert (tmp_path / "ablation_fusion.png").exists()


def test_a_device_that_runs_out_of_memory_fails_one_run(tmp_path, monkeypatch):
    def fit(config, folder, finish):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setattr(cells, "fit", fit)
    with pytest.raises(UserError, match="4 of 4 runs failed.*\n?.*RESOURCE_EXHAUSTED: out of mem"):
        ablate.ablate(fusion(), tmp_path)


def test_runs_of_several_classes_an_image_are_compared_by_map():
    result = {"status": "finished", "metric": "map", "best_val_map": 40.0, "best_val_step": 6}
    result |= {"steps_per_epoch": 3, "test_map": 38.0, "test_loss": 0.2, "seconds": 1.0}
    found = ablate.row("all", 0, {}, result)
    assert (found["metric"], found["val_acc"], found["test_acc"]) == ("map", 40.0, 38.0)


def test_what_is_no_study(tmp_path):
    with pytest.raises(
        UserError, match="config.study.*Available: backbone, base_to_new.*fusion.*prompt_scale"
    ):
        ablate.ablate(msvp.get_config("data=digits"), tmp_path)


TOTALS = {"cnn": 1_208_362, "resnet18": 11_173_962, "vit": 5_362_762}
OVERHEAD = {  # scales, fusion, channels: parameters
    ("global", "add", 3): 3,
    ("global", "concat", 3): 21,
    ("global+mid", "gated", 3): 63,
    ("full", "add", 3): 243,
    ("full", "concat", 3): 279,
    ("full", "gated", 1): 83,
    ("global+mid", "concat", 1): 20,
}


@pytest.mark.parametrize(("scales", "fusion", "channels"), OVERHEAD)
def test_counts_are_those_of_the_model(scales, fusion, channels):
    config = msvp.get_config(f"data=digits,model=cnn,scales={scales},fusion={fusion}")
    config.backbone.channels = channels
    found = ablate.count_parameters(config)
    assert found["prompt_parameters"] == OVERHEAD[scales, fusion, channels]


@pytest.mark.parametrize(
    ("model", "share"), [("cnn", 0.0201), ("resnet18", 0.0022), ("vit", 0.0045)]
)
def test_shares_of_the_published_networks(model, share, monkeypatch):
    config = msvp.get_config(f"data=cifar10,model={model}")
    ten = type("Source", (), {"num_classes": 10})
    monkeypatch.setattr(ablate, "open_split", lambda *_: ten)
    found = ablate.count_parameters(config)
    assert found["backbone_parameters"] == TOTALS[model]
    assert found["prompt_percent"] == pytest.approx(share, abs=5e-5)


def test_grids_of_the_recipes():
    assert ablate_prompt_scale.get_config().study.cells == ("global", "global+mid", "full")
    assert ablate_fusion.get_config().study.cells == ("add", "concat", "gated")
    config = ablate_backbone.get_config()
    assert (
        config.study.cells[:2] == ("mnist_cnn_baseline", "mnist_cnn_msvp")
        and len(config.study.cells) == 18
    )
    assert set(config.study.cells) == set(config.study.compare)
    assert len(ablate_backbone.get_config("data=mnist").study.compare) == 6
    singles = {run.label: run.config for run in cells.all_runs(config, Path())}
    for data in ablate_backbone.ALL:
        for model in ("cnn", "resnet18", "vit"):
            for kind, prompts in (("baseline", "no"), ("msvp", "yes")):
                expected = msvp.get_config(f"data={data},model={model},prompts={prompts}")
                for part in ("data", "backbone", "method", "train", "optim"):
                    ours = singles[f"{data}_{model}_{kind}"][part].to_dict()
                    assert ours == expected[part].to_dict(), (data, model, kind, part)
    with pytest.raises(UserError, match="give 1, 2, 4 or 8"):
        ablate_backbone.get_config("narrow=3")
    with pytest.raises(UserError, match="Did you mean 'mnist'"):
        ablate_backbone.get_config("data=mnst")


def summary(**values):
    return {"cell": "add", "dataset": "mnist", "model": "cnn", "use_prompt": True} | values


def test_pictures_draw_what_there_is():
    done = summary(val_acc=91.0, val_acc_std=1.0, test_acc=90.0, test_acc_std=0.5)
    done |= {"prompt_parameters": 81, "prompt_percent": 0.0067}
    lost = summary(cell="gated", val_acc=None, test_acc=None, prompt_parameters=83)
    lost |= {"prompt_percent": 0.007, "val_acc_std": None, "test_acc_std": None}
    left, right = choices([done, lost]).axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["Addition", "Gated"]
    bars = [p for p in left.patches if p.get_height() > 0]
    assert [b.get_height() for b in bars] == [91.0, 90.0]
    assert [b.get_height() for b in right.patches] == [81, 83]  # counts, no constants
    assert "81\n(0.0067 %)" in [t.get_text() for t in right.texts]
    base = done | {"use_prompt": False, "test_acc": 88.0}
    empty = summary(dataset="cifar10", test_acc=None, test_acc_std=None)
    first, second = backbones([base, done, empty]).axes
    assert (first.get_title(), second.get_title()) == ("MNIST", "CIFAR-10")
    assert [p.get_height() for p in first.patches] == [88.0, 90.0]
    assert [t.get_text() for t in second.texts] == ["No data"]


def test_differences_in_points():
    with_prompts = summary(test_acc=91.5, test_acc_std=0.2)
    without = summary(use_prompt=False, test_acc=90.0, test_acc_std=0.0)
    text = ablate.differences(
        [without, with_prompts, summary(model="vit", test_acc=None, test_acc_std=None)]
    )
    first, second = text.splitlines()[2:]
    assert [t.strip() for t in first.split("|")[3:6]] == ["90.00 ± 0.00", "91.50 ± 0.20", "+1.50"]
    assert [t.strip() for t in second.split("|")[2:6]] == ["vit", "-", "-", "-"]


def test_a_cell_is_its_own_config():
    config = ablate_fusion.get_config("data=digits,model=cnn")
    one = cells.cell_runs(config, "gated", Path())[0].config
    assert one.method.fusion_type == "gated" and config.method.fusion_type == "add"
