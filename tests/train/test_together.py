"""Seeds trained at once leave what each leaves alone."""

import json

import numpy as np
import pytest

from configs import base
from tests import runs
from vpjax.core.errors import Diverged, UserError
from vpjax.runs import fit as fitting
from vpjax.runs import members, together
from vpjax.runs.config import merged
from vpjax.runs.experiment import prepare
from vpjax.runs.members import kin
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.signals import Stopped

SEEDS = (0, 1, 2)
SCRATCH = {
    "method": {"name": "finetune.Full"},
    "backbone": base.backbone("cnn.CNN", image_size=8, width=4),
    "optim": {"lr": 1e-2, "name": "sgd"},  # Adam would make steps of rounding errors
}
CASES = {
    "prompts": {"method": {"dropout": 0.3}},
    "scratch": SCRATCH,  # running averages, dropout, a backbone of its own for every seed
    "random": {"method": {"name": "vpt.FrozenPrompts", "num_tokens": 2}},  # frozen, by seed
}


def configs(changes, **train):
    config = runs.config(train={"select": "best", "log_every": 5} | train)
    config.draw = False
    singles = []
    for seed in SEEDS:
        single = merged(config, {k: v for k, v in changes.items() if k != "backbone"})
        single.backbone = changes.get("backbone", config.backbone)
        single.seed = seed
        singles.append(single)
    return singles


def weights(config, folder, kind="last"):
    experiment = prepare(config)
    saved = Checkpoints(folder / "checkpoints" / kind)
    state = fitting.restored(experiment, saved)[0]
    saved.close()
    return {**state.trainable, **state.stats} | {"step": state.step}


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c != "prompts")) for c in CASES]
)
def test_the_numbers_of_each_alone(case, tmp_path):
    singles = configs(CASES[case])
    places = [tmp_path / f"together{c.seed}" for c in singles]
    found = together.fit_together(list(zip(singles, places, strict=True)))
    firsts = set()
    for config, place, result in zip(singles, places, found, strict=True):
        alone = fitting.fit(config, tmp_path / f"alone{config.seed}")
        assert result["together"] == len(SEEDS)
        assert result["seed"] == config.seed and result.keys() - {"together"} == alone.keys()
        for key in ("step", "trainable", "test_count", "best_val_step"):
            assert result[key] == alone[key], key
        assert result["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
        ours, theirs = weights(config, place), weights(config, tmp_path / f"alone{config.seed}")
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
        firsts.add(float(np.asarray(ours["method/head/kernel"]).ravel()[0]))
        mine, other = history(place), history(tmp_path / f"alone{config.seed}")
        assert [sorted(r) for r in mine] == [sorted(r) for r in other]
        for a, b in zip(mine, other, strict=True):
            assert a == pytest.approx(b, rel=2e-3, abs=1e-4)
        names = {"config.json", "result.json", "metrics.csv", "curves.png", "log.txt"}
        assert names <= {p.name for p in place.iterdir()}
        assert f'seed": {config.seed},' in (place / "config.json").read_text()
    assert len(firsts) == len(SEEDS)  # not one run three times


NUMBERS = ({"lr": 0.03, "weight_decay": 0.0}, {"lr": 0.003}, {"lr": 0.01, "weight_decay": 0.1})
OPTIMISERS = {
    "adamw": {"optim": {"name": "adamw", "min_lr": 1e-4}},
    "sgd": {"optim": {"name": "sgd", "clip_norm": 0.5}, "method": {"dropout": 0.3}},
    "linear": {"optim": {"name": "sgd"}, "method": {"name": "finetune.Linear"}},
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c != "linear")) for c in OPTIMISERS]
)
def test_numbers_of_the_optimiser_may_differ(case, tmp_path):
    singles = configs(OPTIMISERS[case])
    for config, numbers in zip(singles, NUMBERS, strict=True):
        config.seed = 3
        config.optim.update(numbers)
    places = [tmp_path / str(k) for k in range(len(singles))]
    found = together.fit_together(list(zip(singles, places, strict=True)))
    heads = set()
    for config, place, result in zip(singles, places, found, strict=True):
        alone = fitting.fit(config, tmp_path / f"alone{place.name}")
        assert result["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
        ours, theirs = weights(config, place), weights(config, tmp_path / f"alone{place.name}")
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
        rates = [r["lr"] for r in history(place) if "lr" in r]
        others = [r["lr"] for r in history(tmp_path / f"alone{place.name}") if "lr" in r]
        assert rates == pytest.approx(others)
        heads.add(float(np.asarray(ours["method/head/kernel"]).ravel()[0]))
    assert len(heads) == len(singles)


def test_who_is_kin():
    first, other = configs({})[:2]
    other.optim.update(lr=1.0, weight_decay=0.0, momentum=0.5)
    assert kin(first) == kin(other) is not None
    other.method.num_tokens = 3
    assert kin(first) != kin(other)
    published = configs({})[:2]
    for config, decay in zip(published, (0.0, 0.1), strict=True):
        config.parity, config.optim.weight_decay = True, decay
    assert kin(published[0]) != kin(published[1])  # without a decay it is another optimiser
    first.optim.schedule = "plateau"
    assert kin(first) is None


def test_finished_runs_stay_and_begun_ones_go_on_alone(tmp_path, monkeypatch):
    singles = configs({})
    group = [(c, tmp_path / str(c.seed)) for c in singles]
    done = fitting.fit(*group[1])
    seen = []
    monkeypatch.setattr(together, "_group", lambda fresh: seen.append(fresh) or {})
    monkeypatch.setattr(together, "_begun", lambda folder: folder == group[1][1])
    with pytest.raises(KeyError):  # the group's results are not there
        together.fit_together(group)
    assert [folder.name for _, folder in seen[0]] == ["0", "2"]
    monkeypatch.undo()
    found = together.fit_together(group)
    assert found[1] == done and "together" not in found[1]
    assert found[0]["together"] == 2


def test_a_group_that_is_stopped_goes_on(tmp_path, monkeypatch):
    group = [(c, tmp_path / str(c.seed)) for c in configs({}, save_every=1e9)]

    class Asked(together.StopSignal):
        def __enter__(self):
            super().__enter__()
            self.asked = 15
            return self

    monkeypatch.setattr(together, "StopSignal", Asked)
    with pytest.raises(Stopped, match="stopped at step 1 of 12"):
        together.fit_together(group)
    assert all(runs.newest(folder).name == "1" for _, folder in group)
    monkeypatch.undo()
    found = together.fit_together(group)
    whole = [(c, tmp_path / f"whole{c.seed}") for c, _ in group]
    together.fit_together(whole)
    for (_, place), (_, other), result in zip(group, whole, found, strict=True):
        assert result["together"] == len(SEEDS)
        assert runs.digests(place) == runs.digests(other)
    assert [row["step"] for row in history(group[0][1]) if "loss" in row][:2] == [1, 2]


def test_a_seed_that_diverges_leaves_the_others_alone(tmp_path, monkeypatch):
    group = [(c, tmp_path / str(c.seed)) for c in configs({})]
    real = members.prepare

    def broken(config):
        experiment = real(config)
        if config.seed == 1:
            name = next(iter(experiment.state.trainable))
            experiment.state.trainable[name] = experiment.state.trainable[name] * np.nan
        return experiment

    monkeypatch.setattr(members, "prepare", broken)
    found = together.fit_together(group)
    assert isinstance(found[1], UserError) and "diverged" in str(found[1])
    assert found[0]["status"] == found[2]["status"] == "finished"
    assert not (group[1][1] / "result.json").exists()
    monkeypatch.undo()
    again = together.fit_together(group)  # would diverge again, so it is not tried again
    assert isinstance(again[1], Diverged) and again[0] == found[0]


def test_what_cannot_be_together(tmp_path):
    singles = configs({})
    singles[1].method.num_tokens = 3
    with pytest.raises(ValueError, match="cannot train together.*num_tokens"):
        together.fit_together([(c, tmp_path / str(c.seed)) for c in singles])
    bad = configs({"optim": {"name": "adamx"}})
    found = together.fit_together([(c, tmp_path / str(c.seed)) for c in bad])
    assert [type(e) for e in found] == [UserError] * 3 and "adamx" in str(found[0])
