"""The study that prunes E2VPT: masks, importance, rewinding, one table."""

import json

import numpy as np
import pytest

from configs import digits_prune
from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs.workdir import read_result
from vpjax.studies import prune, trials

WORDS = (
    "--config=configs/digits_prune.py",
    "--config.train.steps=2",
    "--config.method.num_tokens=4",
    "--config.method.pieces=4",
    "--config.study.prune.percents=(50,75)",
    "--config.study.prune.min_pieces=2",
    "--config.study.seeds=(7,)",
)


def test_trains_measures_prunes_and_trains_again(tmp_path):
    done = runs.command("prune", *WORDS, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr_text
    found = json.loads((tmp_path / "pruning.json").read_text())
    tokens, pieces = np.array(found["tokens"]), np.array(found["pieces"])
    assert tokens.shape == (4,) and pieces.shape == (4, 4) and np.abs(pieces).min() > 0
    names = [c["name"] for c in found["candidates"]]
    assert names == ["3_prompts_2_pieces", "2_prompts_2_pieces"]  # of equals, the first wins
    first = found["candidates"][0]
    assert first["pruned_tokens"] == sorted(np.argsort(tokens)[:3])
    assert len(first["pruned_pieces"]) == 8
    tuned = json.loads((tmp_path / "tune.json").read_text())
    label = tuned["choice"]["params"]["study.label"]
    chosen = next(c for c in found["candidates"] if c["name"] == label)
    final = configs.load(tmp_path / "final" / "seed7" / "config.json")
    assert final.method.pruned_tokens == tuple(chosen["pruned_tokens"])
    assert not final.method.masks and final.data.train.count("+") == 1
    assert f"pruned    {label}: Test accuracy" in done.stdout_text + done.stderr_text
    again = runs.command("prune", *WORDS, f"--workdir={tmp_path}")  # nothing is trained again
    assert again.returncode == 0, again.stderr_text
    assert json.loads((tmp_path / "tune.json").read_text())["seeds"] == tuned["seeds"]
    assert read_result(tmp_path / "masked")["step"] == 2


def test_other_methods_are_not_pruned(tmp_path):
    config = configs.merged(digits_prune.get_config(), {"method": {"name": "vfpt.VFPT"}})
    with pytest.raises(UserError, match="prune is for e2vpt.E2VPT, .* vfpt.VFPT"):
        prune.prune(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_each_candidate_is_a_trial_with_fixed_masks(tmp_path):
    pairs = (("3_prompts_1_pieces", [0, 2, 3], [5]), ("0_prompts_1_pieces", [], [5]))
    candidates = [
        {"name": name, "pruned_tokens": tokens, "pruned_pieces": pieces}
        for name, tokens, pieces in pairs
    ]
    config = configs.merged(digits_prune.get_config(), {"method": {"masks": True}})
    found = trials.selection(prune.selection(config, candidates), tmp_path)
    assert [t.name for t in found] == ["label=3_prompts_1_pieces", "label=0_prompts_1_pieces"]
    methods = [t.config.method for t in found]
    assert [m.pruned_tokens for m in methods] == [(0, 2, 3), ()]
    assert all(m.pruned_pieces == (5,) and not m.masks for m in methods)
    assert not any(t.config.data.test for t in found)
