"""ViT-B/4 on CIFAR-10: what trains, how it starts, and the three strategies from one command."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import vit_b4_compare, vpt_cifar
from tests.data.fake import fake_tfds
from tests.helpers import cases
from tests.helpers.runs import main, result
from tests.report.plots.test_curves import shows
from vpjax.backbones.vit import ViT
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.vit_b4 import Prompts, PromptsFull
from vpjax.methods.vpt import VPT
from vpjax.models.partition import partition
from vpjax.runs.experiment import abstract_model
from vpjax.studies import compare
from vpjax.studies.cells import all_runs, cell_labels
from vpjax.train.optim import Settings, make_optimizer
from vpjax.train.schedules import Plan
from vpjax.weights import google


def model_of(config, classes=10):
    return partition(abstract_model(config, classes))


@pytest.mark.parametrize(
    ("strategy", "trainable", "total"),
    [
        ("P", 558_346, 85_612_810),
        ("F", 85_152_010, 85_152_010),
        ("PF", 85_612_810, 85_612_810),
        ("VPT", 468_490, 85_612_810),
    ],
)
def test_counts(strategy, trainable, total):
    parts = model_of(vpt_cifar.get_config(f"strategy={strategy}"))
    size = lambda part: sum(v.size for v in part.values())  # noqa: E731
    assert size(parts.trainable) == trainable
    assert size(parts.trainable) + size(parts.frozen) == total
    assert f"{trainable:,}" in vpt_cifar.__doc__
    if strategy == "P":
        assert all(n.startswith("backbone/layers/") for n in parts.frozen)
        assert size(parts.frozen) == 85_054_464


def test_strategies_by_name():
    assert vpt_cifar.get_config().method.name == "vit_b4.Prompts"
    assert vpt_cifar.get_config("PF").method.name == "vit_b4.PromptsFull"
    with pytest.raises(UserError, match="strategy of configs/vpt_cifar.py"):
        vpt_cifar.get_config("strategy=Q")
    assert set(cell_labels(vit_b4_compare.get_config())) == {"P", "F", "P+F"}


def test_options_hold_for_all_runs_of_the_comparison():
    config = vit_b4_compare.get_config()
    config.method.num_tokens = 7
    methods = {run.label: run.config.method for run in all_runs(config, Path())}
    assert methods["P"].num_tokens == methods["P+F"].num_tokens == 7
    assert methods["F"].name == "finetune.Full" and "num_tokens" not in methods["F"]
    assert {m.head_init for m in methods.values()} == {"normal_0.02"}


def test_prompts_start_in_a_range_of_their_own():
    rngs = nnx.Rngs(0)
    backbone = ViT("Ti/4", 16, dim=96, mlp_dim=16, heads=2, depth=2, rngs=rngs)
    bounds = {Prompts: (6 / 192) ** 0.5, PromptsFull: (6 / 192) ** 0.5, VPT: (6 / 144) ** 0.5}
    for cls, bound in bounds.items():
        method = cls(backbone, 3, num_tokens=50, rngs=rngs)
        for prompt in method.prompts.values():
            assert 0.99 * bound < np.abs(prompt[...]).max() <= bound
    assert (6 / (768 + 768)) ** 0.5 == 0.0625


def test_what_trains_beside_prompts():
    parts = cases.make("vit", "vit_b4_prompts")
    beside = {n for n in parts.trainable if not n.startswith("method/")}
    assert beside == {
        f"backbone/{n}"
        for n in ("cls_token", "pos_embed", "patch_embed/kernel", "patch_embed/bias")
        + ("norm/scale", "norm/bias")
    }
    assert not cases.make("vit", "vit_b4_prompts_full").frozen


@pytest.mark.parametrize("epochs", [5, 10])
def test_the_rate_falls_between_epochs_to_its_floor(epochs):
    config = vpt_cifar.get_config().optim
    _, rate = make_optimizer(Settings(**config), ["method/head/bias"], Plan(epochs * 391, 391, 128))
    rates = np.asarray(rate(np.arange(epochs * 391))).reshape(epochs, 391)
    assert (rates == rates[:, :1]).all()
    published = [1e-5 + 9.9e-4 * (1 + np.cos(np.pi * e / epochs)) / 2 for e in range(epochs)]
    np.testing.assert_allclose(rates[:, 0], published, rtol=1e-5)
    if epochs == 5:
        stated = [1e-3, 9.055e-4, 6.580e-4, 3.520e-4, 1.045e-4]
        np.testing.assert_allclose(rates[:, 0], stated, rtol=1e-3)


def test_everything_decays_in_the_gradient():
    config = vpt_cifar.get_config().optim
    params = {n: np.float32(3.0) for n in ("method/head/bias", "backbone/norm/bias", "method/x")}
    optimiser, _ = make_optimizer(Settings(**config), params, Plan(10, 1, 128))
    gradient = {n: np.float32(0) for n in params}
    updates, _ = optimiser.update(gradient, optimiser.init(params), params)
    # Adam makes a whole step of what decay alone puts into a gradient of zero.
    assert all(u == pytest.approx(-1e-3, rel=1e-3) for u in updates.values())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The comparison, from a 56-pixel ViT of 8-pixel patches, on 20 + 12 images."""
    folder = tmp_path_factory.mktemp("vit_b4")
    fake_tfds(folder / "data", "cifar10", {"train": 20, "test": 12})
    rngs = nnx.Rngs(0)
    big = ViT("Ti/8", 56, dim=16, mlp_dim=16, heads=2, depth=2, dropout=0.0, rngs=rngs)
    google.save(folder / "vit.npz", params.flatten(nnx.state(big)))
    tiny = {"dim": 16, "mlp_dim": 16, "heads": 2, "depth": 2, "weights": folder / "vit.npz"}
    done = main(
        "--config=configs/vit_b4_compare.py",
        f"--workdir={folder / 'runs'}",
        f"--config.data.dir={folder / 'data'}",
        "--config.method.num_tokens=4",
        "--config.train.batch_size=8",
        "--config.train.epochs=2",
        *(f"--config.backbone.{k}={v}" for k, v in tiny.items()),
    )
    assert done.returncode == 0, done.stderr_text
    return folder / "runs", done.stdout_text


def test_three_strategies_from_one_command(compared):
    folder, said = compared
    prompts, rest = 2 * 4 * 16, 4 * 4 * 3 * 16 + 16 + 16 + 65 * 16 + 32 + 170
    layers = 2 * (2 * 32 + 4 * (16 * 16 + 16) + 2 * (16 * 16 + 16))
    expected = {"P": prompts + rest, "F": rest + layers, "P+F": prompts + rest + layers}
    for label, count in expected.items():
        run = folder / label / "seed0"
        found = result(run)
        assert found["trainable"] == count
        assert found["step"] == 6 and found["steps_per_epoch"] == 3  # 8, 8 and 4 images
        assert found["test_count"] == found["val_count"] == 12
        assert found["test_accuracy"] == found["val_accuracy"]
        assert found["weights"]["resized"] == "positions 7x7 -> 8x8, patches 8x8 -> 4x4"
        assert found["data"]["val"]["name"] == "cifar10:3.0.2[test]"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        tested = [r for r in rows if "val_accuracy" in r]
        assert [r["step"] for r in tested] == [3, 6]
        assert all(r["val_batch_loss"] != r["val_loss"] for r in tested)  # 8 and 4 images
        assert found["best_val_accuracy"] == max(r["val_accuracy"] for r in tested)
        rates = {r["step"]: r["lr"] for r in rows if "lr" in r}
        assert rates == pytest.approx({3: 1e-3, 6: 5.05e-4}, rel=1e-4)
        assert not list((run / "checkpoints").glob("best/[0-9]*"))  # nothing is chosen
    assert "comparison_curves.png" in said and "resized positions 7x7" in said


def test_its_table_and_its_picture(compared):
    folder, said = compared
    table = (folder / "comparison.md").read_text()
    header = (
        "method | last test accuracy (%) | best seen (%) | trainable parameters | share | seconds"
    )
    assert header in " ".join(table.split())
    assert table.strip() in said
    with open(folder / "comparison.csv") as file:
        rows = {r["label"]: r for r in csv.DictReader(file)}
    assert list(rows) == ["P", "F", "P+F"]
    for row in rows.values():
        assert float(row["best"]) >= float(row["mean"]) >= 0
        assert float(row["seconds"]) > 0
    picture = np.asarray(Image.open(folder / "comparison_curves.png").convert("RGB")).astype(int)
    for colour in vit_b4_compare.get_config().study.colours.values():
        assert shows(picture, colour)


def test_a_run_of_the_comparison_can_be_evaluated(compared):
    folder, _ = compared
    done = main("eval", f"--workdir={folder / 'P+F' / 'seed0'}")
    assert "equal to the recorded test accuracy" in done.stdout_text, done.stderr_text


def test_best_is_only_said_of_the_test_split():
    found = {
        "metric": "accuracy",
        "test_accuracy": 50.0,
        "best_val_accuracy": 70.0,
        "test_count": 10,
        "trainable": 1,
        "percent": 1.0,
        "seconds": 1.0,
        "data": {
            "val": {"name": "x[test]", "images": 10},
            "test": {"name": "x[test]", "images": 10},
        },
    }
    assert compare.summary("a", [found])["best"] == 70.0
    found["data"]["val"] = {"name": "x[val]", "images": 10}
    row = compare.summary("a", [found])
    assert "best" not in row and "best seen" not in compare.as_table([row])
