"""The protocol: settings chosen on val with the test split locked, then the final runs."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from configs import vtab
from tests.data.fake import fake_tfds
from tests.helpers import runs
from vpjax.core import distributed, files, registry
from vpjax.core.errors import Diverged, InUse, UserError
from vpjax.data import lock, open_source
from vpjax.data import tfds as prepared
from vpjax.studies import cells, cost, plan, trials, tune

TASKS = ("patch_camelyon", "smallnorb_elevation", "svhn")
SUITE = "+".join(TASKS)
TINY = {"variant": "Ti/8", "dim": 16, "mlp_dim": 16, "heads": 2, "depth": 2, "image_size": 16}
SPLITS = {"train": "train[:20]", "val": "train[20:30]", "test": "test"}
QUICK = {"batch_size": 8, "epochs": 2.0, "eval_every": 1.0, "save_every": 0.0, "log_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three data sets as TFDS leaves them on a disk."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in ("patch_camelyon", "smallnorb", "svhn_cropped"):
        fake_tfds(folder, name, {"train": 30, "test": 12})
    return folder


def command(data, folder, method, task=SUITE, **tuned):
    """The options of main.py that run a mini suite on a tiny network."""
    tuned = {"train": "train[:30]", "grid.optim.lr": (0.01, 0.1)} | tuned
    sections = {"data": SPLITS | {"dir": data}, "backbone": TINY | {"weights": ""}}
    sections |= {"train": QUICK, "study.tune": tuned}
    options = [f"--config.{s}.{k}={v}" for s, keys in sections.items() for k, v in keys.items()]
    recipe = f"--config=configs/vtab.py:method={method},task={task}"
    whole = ["--config.study.seeds=(1,)", "--config.dtype=float32", "--config.draw=False"]
    return ["tune", recipe, f"--workdir={folder}", *options, *whole]


def config(data, /, method="linear", task="svhn", **sections):
    """The same in this process, with two learning rates."""
    out = vtab.get_config(f"method={method},task={task}")
    out.data.update(**SPLITS, dir=str(data), eval_batch_size=8)
    out.backbone.update(**TINY, weights="")
    out.train.update(**QUICK)
    out.study.tune.update(train="train[:30]", grid=ConfigDict({"optim": {"lr": (0.01, 0.1)}}))
    out.study.seeds, out.dtype, out.draw, out.optim.warmup_epochs = (1, 2), "float32", False, 0.0
    for section, values in sections.items():
        for key, value in values.items():
            (out.study.tune if section == "tune" else out[section])[key] = value
    return out


def result(folder):
    return json.loads((folder / "tune.json").read_text())


def outcome(folder, task):
    """What must not depend on what happened on the way."""
    found = result(folder / task)
    table = json.loads((folder / task / "choice.json").read_text())["table"]
    picked = [{k: v for k, v in r.items() if k != "seconds"} for r in table + found["seeds"]]
    digests = [runs.digests(p.parent) for p in sorted((folder / task).glob("*/*/result.json"))]
    return found["mean"], found["std"], found["choice"]["params"], picked, digests


@pytest.fixture(scope="module")
def peeked(data, tmp_path_factory):
    """A whole `tune` whose trials try to read the test split; what was read, and by whom."""
    folder, patch = tmp_path_factory.mktemp("tune"), pytest.MonkeyPatch()
    read, tried, choice = [], [], folder / "choice.json"
    real, fit = prepared.Examples.__getitems__, cells.fit

    def noted(self, indices):
        if "[test]" in self._where:
            read.append(choice.exists())
        return real(self, indices)

    def peeking(single, place, finish):
        if single.data.val:
            assert single.data.test == ""
            for split in ("test", "train[:2]+test[5:6]", "test[:1]"):
                with pytest.raises(lock.Locked, match="stays locked until the choice is made"):
                    open_source("svhn_cropped", split, data)
            with pytest.raises(lock.Locked):  # by another name
                open_source("vtab/svhn", "test[3:]", data)
            tried.append(place.name)
        return fit(single, place, finish=finish)

    setting = config(data)
    setting.study.seeds = (1,)
    patch.setattr(prepared.Examples, "__getitems__", noted)
    patch.setattr(cells, "fit", peeking)
    tune.command(setting, folder)
    patch.undo()
    return folder, read, tried


def test_selecting_code_cannot_read_the_test_split(data, peeked):
    _, read, tried = peeked
    assert tried == ["lr=0.01", "lr=0.1"] and read and all(read)
    assert len(open_source("svhn_cropped", "test", data)) == 12  # the lock is gone


def check_files(folder, method):
    """What a finished task leaves."""
    found = result(folder)
    assert found["label"] == method and [r["seed"] for r in found["seeds"]] == [1]
    assert found["choice"]["trials"] == {"finished": 2} and found["metric"] == "accuracy"
    with open(folder / "tune.csv") as file:
        assert [r["phase"] for r in csv.DictReader(file)] == ["select", "select", "final"]
    assert f"Test accuracy {found['mean']:.2f} %, of one seed" in (folder / "tune.md").read_text()
    tried = [runs.result(p) for p in (folder / "select").glob("*/")]
    assert ["test" in r["data"] for r in tried] == [False, False]
    last = runs.result(folder / "final" / "seed1")
    assert last["data"]["train"]["images"] == 30 and "val_accuracy" not in last


def test_the_files_of_a_task(peeked):
    check_files(peeked[0], "linear")


@pytest.fixture(scope="module")
def suites(data, tmp_path_factory):
    """Folders of two methods on three tasks; the first was killed in the second task, and ended."""
    folder, out = tmp_path_factory.mktemp("suites"), {}
    for method in ("linear", "vpt_deep"):
        out[method] = folder / method
        arguments = command(data, out[method], method)
        if method == "linear":
            process = runs.main(*arguments, wait=False)
            end = time.monotonic() + 240
            while not any(out[method].glob(f"{TASKS[1]}/final/*/checkpoints/last/[0-9]*")):
                assert time.monotonic() < end and process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (out[method] / TASKS[1] / "tune.json").exists()
        done = runs.main(*arguments)
        assert done.returncode == 0, done.stderr_text
    return out


@pytest.mark.slow
def test_a_suite_that_is_killed_ends_as_one_that_is_not(data, suites, tmp_path):
    arguments = command(data, tmp_path, "linear", task="+".join(TASKS[:2]))
    done = runs.main(*arguments)
    assert done.returncode == 0, done.stderr_text
    for task in TASKS[:2]:
        assert outcome(suites["linear"], task) == outcome(tmp_path, task)


@pytest.mark.slow
@pytest.mark.parametrize("method", ("linear", "vpt_deep"))
@pytest.mark.parametrize("task", TASKS)
def test_what_a_suite_leaves(suites, method, task):
    check_files(suites[method] / task, method)


def test_a_val_split_inside_the_test_split_is_refused(data, tmp_path):
    peeking = config(data, data={"val": "test[:4]"})
    with pytest.raises(UserError, match=r"shares 4 images with the test split"):
        tune.tune(peeking, tmp_path)
    # As in smallNORB, whose val is cut from the front of the test split.
    with lock.lock_split("svhn_cropped", "test[4:]", tmp_path / "choice.json", data_dir=data):
        assert len(open_source("svhn_cropped", "test[:4]", data)) == 4


def test_extents():
    one = [lock.Piece("a", 0, 10), lock.Piece("b", 5, 8)]
    assert lock.shared(one, [lock.Piece("a", 8, 20), lock.Piece("b", 0, 6)]) == 3
    assert lock.shared(one, [lock.Piece("a", 10, 20), lock.Piece("c", 0, 6)]) == 0


@pytest.fixture
def quick(monkeypatch):
    """Runs that take no time; `state` says how each ends."""
    state = {"ran": [], "metric": "accuracy", "ends": lambda config, folder: 50.0}

    def fit(single, folder, finish):
        folder.mkdir(parents=True, exist_ok=True)
        state["ran"].append(folder.name)
        value = state["ends"](single, folder)
        if isinstance(value, UserError):
            raise value
        split = "test" if single.data.test else "val"
        found = {"status": "finished", "step": 1, "seconds": 1.0, f"{split}_loss": 1.0}
        found |= {"metric": state["metric"], f"{split}_{state['metric']}": value}
        files.write_json(folder / "result.json", found)
        return found

    monkeypatch.setattr(cells, "fit", fit)
    return state


def test_the_choice(data, tmp_path, quick, caplog):
    grid = ConfigDict({"optim": {"lr": (0.1, 0.2, 0.3, 9.0), "weight_decay": (0.0, 0.1)}})
    setting = config(data, tune={"grid": grid})
    values = {0.1: 40.0, 0.2: 60.0, 0.3: 60.0, 9.0: Diverged("the loss is nan")}
    seeds = {1: 55.0, 2: Diverged("the loss is inf")}

    def ends(single, folder):
        if single.data.test:
            return seeds[single.seed]
        broken = single.optim.lr == 0.2 and single.optim.weight_decay == 0.0
        return UserError("no space left") if broken else values[single.optim.lr]

    quick["ends"] = ends
    with caplog.at_level("INFO", logger="vpjax"):
        (found,) = tune.tune(setting, tmp_path)
    assert found["choice"]["params"] == {"optim.lr": 0.2, "optim.weight_decay": 0.1}
    assert found["choice"]["trials"] == {"diverged": 2, "failed": 1, "finished": 5}
    assert found["choice"]["edges"] == {}
    assert (found["mean"], found["std"], found["diverged"]) == (55.0, None, [2])
    assert "of one seed of 2 (diverged: 2)" in (tmp_path / "tune.md").read_text()
    assert len(quick["ran"]) == 10
    tune.tune(setting, tmp_path)  # nothing is left to do
    assert len(quick["ran"]) == 10
    setting.study.seeds = (1, 2, 3)
    seeds[3] = 65.0
    assert tune.tune(setting, tmp_path)[0]["mean"] == 60.0
    assert quick["ran"][10:] == ["seed3"]
    setting.optim.momentum = 0.5
    with pytest.raises(UserError, match=r"another plan:\n  optim.momentum: 0.5 now, 0.9 there"):
        tune.tune(setting, tmp_path)


def test_a_grid_may_grow_until_the_choice(data, tmp_path, quick):
    setting = config(data)
    quick["ends"] = lambda single, folder: UserError("no space left")
    with pytest.raises(UserError, match="none of 2 trials finished. The first, lr=0.01, failed"):
        tune.tune(setting, tmp_path)
    quick["ends"] = lambda single, folder: 100 * single.optim.lr
    setting.study.tune.grid.optim.lr = (0.01, 0.1, 0.2)
    quick["ran"].clear()
    (found,) = tune.tune(setting, tmp_path)  # what had failed may have been mended
    assert quick["ran"] == ["lr=0.01", "lr=0.1", "lr=0.2", "seed1", "seed2"]
    assert found["choice"]["edges"] == {"optim.lr": "largest"}
    setting.study.tune.grid.optim.lr = (0.01, 0.1, 0.2, 0.3)
    with pytest.raises(UserError, match="another plan"):
        tune.tune(setting, tmp_path)


def test_data_with_several_classes_an_image_is_chosen_by_map(data, tmp_path, quick):
    quick["metric"] = "map"
    quick["ends"] = lambda single, folder: 100 * single.optim.lr
    (found,) = tune.tune(config(data), tmp_path)
    assert (found["metric"], found["mean"]) == ("map", 10.0)
    assert found["choice"]["rule"].startswith("highest val map")
    assert "Test mAP 10.00 ± 0.00 %" in (tmp_path / "tune.md").read_text()


def test_a_suite_is_one_task_after_the_other(data, tmp_path, quick):
    found = tune.tune(config(data, task="+".join(TASKS[:2])), tmp_path)
    assert len(found) == 2
    for task in TASKS[:2]:
        assert result(tmp_path / task)["choice"]["trials"] == {"finished": 2}
    assert quick["ran"] == 2 * ["lr=0.01", "lr=0.1", "seed1", "seed2"]


def test_nothing_to_choose_from(data, tmp_path, quick):
    (found,) = tune.tune(config(data, tune={"grid": ConfigDict()}), tmp_path)
    assert quick["ran"] == ["seed1", "seed2"] and found["choice"]["val"] is None


def test_trials_by_number(data, tmp_path, quick, capsys, monkeypatch):
    setting = config(data)
    words = ["python", "main.py", "tune", "--print_commands", "--x=a b"]
    monkeypatch.setattr(sys, "orig_argv", words)
    listed = lambda: tune.command(setting, tmp_path, print_commands=True)  # noqa: E731
    listed()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"python main.py tune '--x=a b' --trial={k}" for k in (0, 1)]
    with pytest.raises(UserError, match="2 of 2 trials are missing: lr=0.01, lr=0.1"):
        tune.run_one(setting, tmp_path, "2")
    tune.run_one(setting, tmp_path, "1")
    quick["ends"] = lambda single, folder: Diverged("the loss is nan")
    tune.run_one(setting, tmp_path, "0")  # diverging is an outcome
    listed()
    assert capsys.readouterr().out.splitlines()[0].endswith("--trial=2")
    quick["ends"] = lambda single, folder: UserError("no space left")
    with pytest.raises(UserError, match="no space left"):
        tune.run_one(setting, tmp_path, "3")
    quick["ends"] = lambda single, folder: 50.0
    tune.run_one(setting, tmp_path, "3")
    tune.run_one(setting, tmp_path, "2")
    assert result(tmp_path)["mean"] == 50.0
    for wrong in ("4", "x", "-1"):
        with pytest.raises(UserError, match="has trials 0 to 3"):
            tune.run_one(setting, tmp_path, wrong)
    with pytest.raises(UserError, match="unknown task of --trial 'svhn'"):
        tune.run_one(setting, tmp_path, "svhn/0")


def test_a_trial_that_another_process_runs_is_waited_for(data, tmp_path, quick, monkeypatch):
    busy = [InUse("in use"), InUse("in use")]
    waited = []

    def ends(single, folder):
        return busy.pop() if folder.name == "lr=0.01" and busy else 50.0

    quick["ends"] = ends
    monkeypatch.setattr(time, "sleep", waited.append)
    tune.tune(config(data), tmp_path)
    assert quick["ran"] == ["lr=0.01", "lr=0.1", "lr=0.01", "lr=0.01", "seed1", "seed2"]
    assert waited == [tune.POLL]
    assert not (tmp_path / "select" / "lr=0.01" / "failed.json").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"val": ""}}, "needs config.data.val"),
        ({"data": {"test": ""}}, "needs config.data.val"),
        ({"train": {"select": "best"}}, "reports the last epoch"),
        ({"train": {"patience": 3}}, "reports the last epoch"),
        ({"optim": {"schedule": "plateau"}}, "needs a val split"),
        ({"tune": {"split": "device"}}, "Did you mean 'devices'"),
        ({"tune": {"grid": ConfigDict({"optim": {"lrr": (1.0,)}})}}, "Did you mean 'optim.lr'"),
        ({"tune": {"grid": ConfigDict({"optim": {"lr": ()}})}}, "expected values"),
        ({"tune": {"metric": "acuracy"}}, "a result has .*accuracy"),
    ],
)
def test_protocols_that_cannot_be(data, tmp_path, quick, sections, message):
    with pytest.raises(UserError, match=message):
        tune.tune(config(data, **sections), tmp_path)


def test_what_goes_with_a_value(data, tmp_path):
    grid = {"method": {"num_tokens": (2, 4)}, "optim": {"lr": (0.1, 1.0)}}
    also = {"method": {"num_tokens": {"4": {"train": {"batch_size": 4}}}}}
    setting = config(data, "vpt_deep", tune={"grid": ConfigDict(grid), "also": ConfigDict(also)})
    found = trials.selection(setting, tmp_path)
    assert [t.name for t in found] == [f"num_tokens={n},lr={r}" for n in (2, 4) for r in (0.1, 1.0)]
    assert [t.config.train.batch_size for t in found] == [8, 8, 4, 4]
    (last, _) = trials.finals(setting, found[2].params, tmp_path)
    assert (last.config.data.train, last.config.data.val) == ("train[:30]", "")
    assert last.config.train.batch_size == 4 and last.config.seed == 1


def test_a_dry_run_trains_nothing(data, tmp_path, capsys):
    setting = config(
        data, "vpt_deep", tune={"grid": ConfigDict({"method": {"num_tokens": (2, 9)}})}
    )
    parts = cost.dry_run(plan.plans(setting, tmp_path / "run"))
    assert [(p.trials, p.steps) for p in parts] == [(1, 6), (1, 6), (2, 8)]
    assert parts[0].images == 48 and 0 < parts[0].gflop < parts[1].gflop
    assert all(p.hours > 0 for p in parts)
    assert not (tmp_path / "run").exists()


def test_every_process_begins_with_its_share(data, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 3)
    monkeypatch.setattr(distributed, "index", lambda: 1)
    setting = config(data)
    setting.study.tune.grid.optim.lr = (0.1, 0.2, 0.3, 0.4, 0.5)
    tune.tune(setting, tmp_path)
    names = ["lr=0.2", "lr=0.5", "lr=0.1", "lr=0.3", "lr=0.4"]  # then what others have not begun
    assert quick["ran"] == [*names, "seed2", "seed1"]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["trials", "devices"])
def test_two_processes_share_the_trials(data, tmp_path, split):
    """Both joined by jax.distributed: each trains trials of its own, or both train each."""
    script = """
import sys, jax
jax.distributed.initialize(f"localhost:{sys.argv[3]}", 2, int(sys.argv[4]))
from pathlib import Path
from tests.studies.test_tune import config
from vpjax.core import logs
from vpjax.studies import tune
logs.to_screen()
setting = config(sys.argv[1])
setting.study.tune.grid.optim.lr = (0.01, 0.03, 0.1, 0.3)
setting.study.tune.split = sys.argv[5]
tune.tune(setting, Path(sys.argv[2]))
"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-c", script, str(data), str(tmp_path), port]
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(runs.HOME)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": env}
    both = [subprocess.Popen([*words, str(k), split], cwd=runs.HOME, **pipes) for k in (0, 1)]
    texts = [p.communicate(timeout=600)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], texts
    counts = [len(re.findall(r"^run .* \d+\.\d s", text, re.MULTILINE)) for text in texts]
    if split == "trials":  # each has run some, and nobody what the other had
        assert all(0 < count < 6 for count in counts) and sum(counts) == 6, "\n".join(texts)
    else:
        assert counts == [6, 6], texts
    assert result(tmp_path)["choice"]["trials"] == {"finished": 4}


def test_the_recipe_has_every_method():
    listed = {name for name, _, _ in vtab.METHODS.values()} | set(vtab.ELSEWHERE)
    assert set(registry.available("methods")) - {"base.Method"} == listed
    for method, (_, _, follows) in vtab.METHODS.items():
        assert follows in vtab.GRIDS and follows in vtab.RATES
        for recipe in vtab.RECIPES:
            made = vtab.get_config(f"method={method},recipe={recipe},task=svhn")
            assert made.data.val == "val200" and made.study.tune.train == "train800val200"
            assert made.study.seeds == vtab.SEEDS and made.train.select == "last"
            assert trials.grid(made)
    deep = vtab.get_config("method=vpt_deep,recipe=paper,task=sun397")
    assert len(trials.grid(deep)) == 240 and deep.match_reference_code
    assert deep.study.expected.to_dict() == {"value": 49.6, "tolerance": 3.0, "source": vtab.VPT}


def test_suites_of_the_recipe():
    every = vtab.get_config("task=all,method=vpt_deep,recipe=paper")
    assert len(every.study.suite) == 19
    for one in plan.plans(every, runs.HOME / "nowhere"):
        single = vtab.get_config(f"task={one.label},method=vpt_deep,recipe=paper")
        assert one.config.to_dict() == single.to_dict()
    assert vtab.tasks("specialised+svhn")[-1] == "svhn"
    with pytest.raises(UserError, match="Did you mean 'svhn'"):
        vtab.get_config("task=svhm")
    with pytest.raises(UserError, match="Did you mean 'vpt_deep'"):
        vtab.get_config("method=vpt_dep")


@pytest.mark.parametrize("method", vtab.EXPECTED)
def test_published_values_average_to_the_published_means(method):
    means = {
        "full": (75.88, 83.36, 47.64),
        "linear": (68.93, 77.16, 26.84),
        "bias": (73.30, 78.25, 44.09),
        "vpt_shallow": (76.81, 79.66, 46.98),
        "vpt_deep": (78.48, 82.43, 54.98),
        "sa2vp": (80.97, 85.73, 60.80),
    }[method]
    groups = {}
    for task, value in vtab.EXPECTED[method].items():
        groups.setdefault(vtab.TASKS[task].group, []).append(value)
    found = [sum(values) / len(values) for values in groups.values()]
    assert found == pytest.approx(means, abs=0.06)
