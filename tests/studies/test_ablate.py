"""Studies from the command line: grid, seeds, failures, going on; tables with true counts."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import ablate_backbone, ablate_fusion, ablate_prompt_scale, msvp
from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.report.plots.ablation import backbones, choices
from vpjax.runs.config import merged
from vpjax.studies import ablate, compare

QUICK = ("--config.train.steps=6", "--config.draw=False", "--config.train.eval_every=0.5")
FUSION = "--config=configs/ablate_fusion.py:data=digits,model=cnn,narrow=8"


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study of two seeds."""
    folder = tmp_path_factory.mktemp("study")
    done = runs.command(
        "ablate", FUSION, f"--workdir={folder}", *QUICK, "--config.study.seeds=(0,1)"
    )
    assert done.returncode == 0, done.stderr_text
    return folder, done


@pytest.mark.slow
def test_every_cell_with_every_seed(study):
    folder, done = study
    found = rows(folder / "ablation_fusion_results.csv")
    assert list(found[0])[:7] == [
        *("fusion_type", "dataset", "model", "val_acc", "test_acc", "test_loss", "best_epoch")
    ]
    cells = [(r["fusion_type"], r["seed"]) for r in found]
    assert cells == [(f, s) for f in ("add", "concat", "gated") for s in "01"]
    assert {r["model"] for r in found} == {"cnn"} and {r["use_prompt"] for r in found} == {"True"}
    for r in found:
        result = runs.result(folder / r["fusion_type"] / f"seed{r['seed']}")
        assert float(r["test_acc"]) == result["test_accuracy"]
        assert float(r["val_acc"]) == result["best_val_accuracy"]
        steps = result["best_val_step"] / result["steps_per_epoch"]
        assert float(r["best_epoch"]) == pytest.approx(steps, abs=0.01)
    cells = json.loads((folder / "ablation_fusion.json").read_text())
    tests = [float(r["test_acc"]) for r in found[:2]]
    assert cells[0]["test_acc"] == pytest.approx(np.mean(tests))
    assert cells[0]["test_acc_std"] == pytest.approx(np.std(tests))  # of the population
    assert [c["prompt_parameters"] for c in cells] == [81, 85, 83]
    assert rows(folder / "ablation_fusion.csv")[1]["cell"] == "concat"
    text = (folder / "ablation_fusion.md").read_text()
    assert text.strip() in done.stdout_text and f"{np.mean(tests):.2f} ± " in text
    assert np.asarray(Image.open(folder / "ablation_fusion.png").convert("L")).std() > 20


def test_a_study_goes_on_and_a_failed_cell_does_not_stop_it(study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study[0], folder)
    shutil.rmtree(folder / "concat" / "seed1")
    results = sorted(folder.glob("*/*/result.json"))
    before = {p: p.stat().st_mtime_ns for p in results}
    bad = folder / "gated" / "seed0"
    (bad / "result.json").unlink()
    config = json.loads((bad / "config.json").read_text())
    config["optim"]["lr"] = 7.0  # its checkpoints belong to another run now
    (bad / "config.json").write_text(json.dumps(config))
    again = runs.command(
        "ablate", FUSION, f"--workdir={folder}", *QUICK, "--config.study.seeds=(0,1)"
    )
    assert again.returncode == 2
    assert "1 of 6 runs failed" in again.stderr_text and "gated with seed 0" in again.stderr_text
    assert "Traceback" not in again.stderr_text
    kept = {p: p.stat().st_mtime_ns for p in results if p.exists() and p.parent != bad}
    assert kept == {p: t for p, t in before.items() if p in kept} and len(kept) == 4
    assert runs.result(folder / "concat" / "seed1")["status"] == "finished"
    cells = json.loads((folder / "ablation_fusion.json").read_text())
    assert [c["seeds"] for c in cells] == [2, 2, 1]
    assert "optim.lr: 0.001 now, 7.0 there" in cells[2]["failed"]
    assert cells[2]["test_acc_std"] == 0
    failed = rows(folder / "ablation_fusion_results.csv")[4]
    assert failed["status"] == "failed" and failed["test_acc"] == "" and failed["reason"]
    assert "Failed: gated, seed 0" in (folder / "ablation_fusion.md").read_text()


def test_a_cell_that_cannot_be_and_one_that_diverges(tmp_path):
    config = ablate_fusion.get_config("data=digits,model=cnn,narrow=8")
    config.train.update(steps=2)
    config.study.seeds, config.draw = (0,), False
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
    cells = {c["cell"]: c for c in json.loads((tmp_path / "ablation_fusion.json").read_text())}
    assert "Did you mean 'add'" in cells["typo"]["failed"]
    assert cells["nonsense"]["failed"] and cells["nonsense"]["test_acc"] is None
    assert "diverged" in cells["wild"]["failed"]
    assert cells["add"]["seeds"] == 1
    assert (tmp_path / "ablation_fusion.png").exists()


def test_a_device_that_runs_out_of_memory_fails_one_cell():
    def call():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    assert "RESOURCE_EXHAUSTED: out of memory" in str(ablate.attempt(call))


def test_what_is_no_study(tmp_path):
    with pytest.raises(UserError, match="config.study.*Available: backbone, fusion.*prompt_scale"):
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
    found = ablate.counts(config)
    assert found["prompt_parameters"] == OVERHEAD[scales, fusion, channels]


@pytest.mark.parametrize(
    ("model", "share"), [("cnn", 0.0201), ("resnet18", 0.0022), ("vit", 0.0045)]
)
def test_shares_of_the_published_networks(model, share, monkeypatch):
    config = msvp.get_config(f"data=cifar10,model={model}")
    ten = type("Source", (), {"num_classes": 10})
    monkeypatch.setattr(ablate, "open_source", lambda *_: ten)
    found = ablate.counts(config)
    assert found["backbone_parameters"] == TOTALS[model]
    assert found["prompt_percent"] == pytest.approx(share, abs=5e-5)


def test_grids_of_the_recipes():
    assert ablate_prompt_scale.get_config().cells == ("global", "global+mid", "full")
    assert ablate_fusion.get_config().cells == ("add", "concat", "gated")
    config = ablate_backbone.get_config()
    assert (
        config.study.cells[:2] == ("mnist_cnn_baseline", "mnist_cnn_msvp")
        and len(config.study.cells) == 18
    )
    assert set(config.study.cells) == set(config.study.compare)
    assert len(ablate_backbone.get_config("data=mnist").compare) == 6
    singles = {label: c for label, _, c in compare.runs(config)}
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


def cell(**values):
    return {"cell": "add", "dataset": "mnist", "model": "cnn", "use_prompt": True} | values


def test_pictures_draw_what_there_is():
    done = cell(val_acc=91.0, val_acc_std=1.0, test_acc=90.0, test_acc_std=0.5)
    done |= {"prompt_parameters": 81, "prompt_percent": 0.0067}
    lost = cell(cell="gated", val_acc=None, test_acc=None, prompt_parameters=83)
    lost |= {"prompt_percent": 0.007, "val_acc_std": None, "test_acc_std": None}
    left, right = choices([done, lost]).axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["Addition", "Gated"]
    bars = [p for p in left.patches if p.get_height() > 0]
    assert [b.get_height() for b in bars] == [91.0, 90.0]
    assert [b.get_height() for b in right.patches] == [81, 83]  # counts, no constants
    assert "81\n(0.0067 %)" in [t.get_text() for t in right.texts]
    base = done | {"use_prompt": False, "test_acc": 88.0}
    empty = cell(dataset="cifar10", test_acc=None, test_acc_std=None)
    first, second = backbones([base, done, empty]).axes
    assert (first.get_title(), second.get_title()) == ("MNIST", "CIFAR-10")
    assert [p.get_height() for p in first.patches] == [88.0, 90.0]
    assert [t.get_text() for t in second.texts] == ["No data"]


def test_differences_in_points():
    with_prompts = cell(test_acc=91.5, test_acc_std=0.2)
    without = cell(use_prompt=False, test_acc=90.0, test_acc_std=0.0)
    text = ablate.differences([without, with_prompts, cell(model="vit", test_acc=None)])
    first, second = text.splitlines()[2:]
    assert [t.strip() for t in first.split("|")[3:6]] == ["90.00 ± 0.00", "91.50 ± 0.20", "+1.50"]
    assert [t.strip() for t in second.split("|")[2:6]] == ["vit", "-", "-", "-"]


def test_a_cell_is_its_own_config():
    config = ablate_fusion.get_config("data=digits,model=cnn")
    one = merged(config, config.study.compare["gated"])
    assert one.method.fusion_type == "gated" and config.method.fusion_type == "add"
