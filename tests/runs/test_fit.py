"""A run: resuming, damaged checkpoints, stopping, and what it must not touch."""

import shutil
import time

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers.runs import config, digests, newest, result
from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.runs import fit as fitting
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.runs.scores import evaluate_run
from vpjax.train.checkpoint import Checkpoints, read_metadata
from vpjax.train.early_stopping import EarlyStopping
from vpjax.train.signals import Stopped, StopSignal
from vpjax.train.step import init_state


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("whole")
        fit(config(), folder)
    return folder


@pytest.fixture
def folder(tmp_path, whole):
    """That run, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    return folder


def stop_after(monkeypatch, steps):
    """Makes a run believe that it gets SIGTERM in that step."""
    left = iter(range(steps))

    class Signal(StopSignal):
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        @property
        def asked(self):
            return 0 if next(left, None) is not None else 15

    monkeypatch.setattr(fitting, "StopSignal", Signal)


@pytest.mark.parametrize("steps", [1, 5])
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(tmp_path, monkeypatch, whole, steps):
    with monkeypatch.context() as patch:
        stop_after(patch, steps - 1)
        with pytest.raises(Stopped, match=f"step {steps} of 12"):
            fit(config(), tmp_path)
    assert newest(tmp_path).name == str(steps)
    before = read_metadata(newest(tmp_path))["seconds"]
    began = time.monotonic()
    fit(config(), tmp_path)
    own = time.monotonic() - began
    assert before > 0 and own - 1 < result(tmp_path)["seconds"] - before < own + 1
    assert digests(tmp_path) == digests(whole)
    assert result(tmp_path)["test_loss"] == result(whole)["test_loss"]


def test_a_checkpoint_holds_the_trainable_part_and_says_what_it_is(whole):
    files = [p for p in newest(whole).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 200_000  # the backbone alone has 460 kB
    meta = (newest(whole) / "meta" / "metadata").read_text()
    for text in ("digests", "sha256", "config", "method.num_tokens", "preset", "classes", "early"):
        assert text in meta
    assert "backbone/layers" not in (newest(whole) / "weights" / "_METADATA").read_text()


# A failed restore leaves tasks of the storage library that complain when they are collected.
noisy = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def damage_by_flip(step):
    largest = max((step / "weights" / "d").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    for place in range(len(data) // 4, len(data), len(data) // 4):
        data[place] ^= 16
    largest.write_bytes(data)


def damage_by_truncation(step):
    for path in (step / "weights" / "d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_by_removal(step):
    shutil.rmtree(step / "optimizer")


def damage_of_meta(step):
    (step / "meta" / "metadata").write_text('{"step": 12, "digests"')


@noisy
@pytest.mark.parametrize(
    "damage", [damage_by_flip, damage_by_truncation, damage_by_removal, damage_of_meta]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(folder, whole, damage, caplog):
    (folder / "result.json").unlink()
    damage(newest(folder))
    with caplog.at_level("INFO", logger="vpjax"):
        fit(config(), folder)
    assert f"{folder.absolute() / 'checkpoints' / 'last' / '12'}" in caplog.text
    assert "resumed at step 10 of 12" in caplog.text
    assert digests(folder) == digests(whole)


@noisy
def test_no_intact_checkpoint_is_an_error_that_lists_them(folder):
    steps = list((folder / "checkpoints" / "last").iterdir())
    for step in steps:
        damage_by_truncation(step)
    with pytest.raises(UserError, match="no checkpoint is intact") as error:
        evaluate_run(folder)
    assert len(steps) > 1 and all(f"last/{step.name}" in str(error.value) for step in steps)
    assert "last/12" in str(error.value)


@noisy
def test_evaluation_reads_the_weights_alone(folder, whole):
    for step in (folder / "checkpoints" / "last").iterdir():
        damage_by_removal(step)
    assert evaluate_run(folder)["test_accuracy"] == result(whole)["test_accuracy"]


def test_a_backbone_of_another_file_is_refused(folder, monkeypatch):
    monkeypatch.setattr("vpjax.weights.load.digest_of", lambda path: "0" * 64)
    with pytest.raises(UserError, match="frozen weights, sha256: .* now"):
        evaluate_run(folder)


def test_the_test_split_is_read_only_at_the_end(tmp_path, monkeypatch):
    from vpjax.data.source import Source

    reads, real = [], Source.__getitems__
    monkeypatch.setattr(
        Source, "__getitems__", lambda self, i: reads.append(self.name) or real(self, i)
    )
    conclude = fitting.conclude
    monkeypatch.setattr(
        fitting, "conclude", lambda *a, **k: reads.append("finish") or conclude(*a, **k)
    )
    fit(config(), tmp_path)
    end = reads.index("finish")
    assert any("[train" in name for name in reads[:end])
    assert not any("test]" in name for name in reads[:end])
    assert any("test]" in name for name in reads[end:])


def test_early_stopping_and_the_best_weights(tmp_path):
    settings = config(optim={"lr": 0.0}, train={"steps": 50, "patience": 2, "select": "best"})
    found = fit(settings, tmp_path)
    # With a rate of 0 the first evaluation is the best: two more, then it stops.
    rows = [
        row["step"] for row in read_history(tmp_path / "metrics.jsonl") if "val_accuracy" in row
    ]
    assert rows == [2, 4, 6]
    assert found["best_val_step"] == 2
    assert found["step"] == 2
    assert newest(tmp_path, "best").name == "2"
    assert newest(tmp_path).name == "6"


def test_patience_counts_evaluations_without_a_better_one():
    early = EarlyStopping(patience=2)
    assert early.better(50.0, 1)
    assert not early.better(50.0, 2)
    assert not early.stop
    assert early.better(51.0, 3)
    assert not early.better(40.0, 4)
    assert not early.better(51.0, 5)
    assert early.stop
    assert (early.best, early.best_step) == (51.0, 3)
    assert not EarlyStopping(patience=0, since=1000).stop


def test_a_diverged_run_says_so_and_nothing_is_recorded_as_a_result(tmp_path):
    with pytest.raises(UserError, match="the run has diverged. Lower optim.lr"):
        fit(config("full", optim={"name": "sgd", "lr": 1e12}), tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("label", ["linear", "vpt_shallow", "full"])
def test_every_method_and_dtype_runs(tmp_path, label, dtype):
    settings = config(label, train={"steps": 4})
    settings.dtype = dtype
    found = fit(settings, tmp_path)
    assert found["step"] == 4
    assert evaluate_run(tmp_path)["test_accuracy"] == found["test_accuracy"]


def test_eight_devices_train_like_one(tmp_path, whole):
    fit(config(mesh={"data": 1}), tmp_path)
    one, eight = (read_history(folder / "metrics.jsonl") for folder in (tmp_path, whole))
    assert result(whole)["devices"] == ["cpu"] * 8
    for a, b in zip(one, eight, strict=True):
        for key in a.keys() & {"loss", "val_loss"}:
            assert a[key] == pytest.approx(b[key], rel=1e-5)


def test_what_trains_can_be_replaced(tmp_path):
    found = fit(
        config("linear", train={"steps": 2, "trainable": r"method/.*|.*/norm\d?/.*"}), tmp_path
    )
    assert found["trainable"] == 245 + (2 * 4 + 1) * 2 * 48


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_devices_do_not_divide_trains_as_on_one(tmp_path, accumulate):
    train = {"batch_size": 10, "steps": 4, "accumulate": accumulate, "remainder": "keep"}
    found = []
    for devices in (1, 3):
        data = {"eval_batch_size": 25}
        run = fit(config(train=train, data=data, mesh={"data": devices}), tmp_path / f"{devices}")
        found.append({k: run[k] for k in ("val_loss", "test_loss", "test_count", "test_accuracy")})
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_run_without_a_step_is_evaluated_and_saved(tmp_path):
    """A zero head gives every class the same; what it starts with can be loaded and evaluated."""
    found = fit(config("linear", train={"steps": 0, "select": "best"}), tmp_path)
    assert (found["step"], found["best_val_step"]) == (0, 0)
    assert found["test_loss"] == pytest.approx(np.log(5), abs=1e-5)
    assert [row["step"] for row in read_history(tmp_path / "metrics.jsonl")] == [0]
    assert evaluate_run(tmp_path)["test_loss"] == found["test_loss"]
    (tmp_path / "result.json").unlink()
    again = fit(config("linear", train={"steps": 0, "select": "best"}), tmp_path)
    assert again["test_loss"] == found["test_loss"]


def test_a_checkpoint_of_vpt_deep_50_on_vit_b16_is_small(tmp_path):
    def make():
        backbone = ViT("B/16", rngs=nnx.Rngs(0))
        return Model(backbone, VPT(backbone, 100, num_tokens=50, rngs=nnx.Rngs(0)))

    parts = partition(nnx.eval_shape(make))
    rng = np.random.default_rng(0)
    values = {
        n: rng.standard_normal(v.shape).astype(np.float32) for n, v in parts.trainable.items()
    }
    optimiser = optax.adamw(1e-3)
    state = init_state(values, {}, optimiser, 0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"early": vars(EarlyStopping(0))})
    checkpoints.close()
    size = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    print(f"{size / 1e6:.1f} MB")
    assert size < 10_000_000
    again = Checkpoints(tmp_path)
    items, meta = again.restore(state)
    again.close()
    assert meta["step"] == 0
    for name, value in values.items():
        np.testing.assert_array_equal(items["weights"]["trainable"][name], value)
    same = jax.tree.map(np.array_equal, items["optimizer"]["opt"], state.opt)
    assert all(jax.tree.leaves(same))
