"""Going on: a run made longer, and a run that begins with what another has learnt."""

import json

import numpy as np
import pytest

import vpjax
from tests.helpers import torch_files
from tests.helpers.runs import command, config, newest, result
from vpjax.core.errors import UserError
from vpjax.runs import restore
from vpjax.runs.config import flat, section
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.runs.run import load_run


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def longer(steps=18, **sections):
    train = {"steps": steps} | sections.pop("train", {})
    return config(train=train, **sections)


def test_a_finished_run_is_made_longer(tmp_path):
    first = fit(config(), tmp_path)
    with pytest.raises(
        UserError, match="18 now, 12 there(?s:.*)or --extend to train it for longer"
    ):
        fit(longer(), tmp_path)
    found = fit(longer(), tmp_path, extend=True)
    assert (found["step"], found["status"]) == (18, "finished")
    change = {"from_step": 12, "changed": {"train.steps": [12, 18]}}
    assert found["extended"] == [change]
    kept = json.loads((tmp_path / "result_step12.json").read_text())
    assert kept["test_loss"] == first["test_loss"] and "extended" not in kept
    steps = [line["step"] for line in read_history(tmp_path / "metrics.jsonl")]
    assert max(steps) == 18 and min(steps) <= 4  # one history
    assert fit(longer(), tmp_path, extend=True)["step"] == 18  # finished: nothing to do
    assert fit(longer(), tmp_path)["step"] == 18


def test_what_cannot_be_extended_is_refused_and_stays(tmp_path):
    with pytest.raises(UserError, match="is no run of vpjax. Train first"):
        fit(config(), tmp_path / "none", extend=True)
    fit(config(), tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(UserError, match="has 12 steps already"):
        fit(longer(6), tmp_path, extend=True)
    with pytest.raises(UserError, match="optim.lr") as error:
        fit(longer(optim={"lr": 1.0}), tmp_path, extend=True)
    assert "--extend" not in str(error.value)
    assert (tmp_path / "result.json").read_bytes() == before
    assert not (tmp_path / "extended.json").exists()


def trainable(folder, **options):
    parts = load_run(folder, **options).parts
    return {n: np.asarray(v) for n, v in parts.trainable.items()}


def test_a_run_begins_with_what_another_has_learnt(tmp_path):
    fit(config(), tmp_path / "first")
    steps = sorted(
        int(p.name) for p in (tmp_path / "first" / "checkpoints" / "last").glob("[0-9]*")
    )
    for checkpoint, step in (("", 12), ("#last", 12), (f"#{steps[0]}", steps[0])):
        folder = tmp_path / f"second{checkpoint}"
        still = {"start": f"{tmp_path / 'first'}{checkpoint}", "steps": 1}
        found = fit(config(train=still, optim={"lr": 0.0}), folder)
        assert found["start"] == {"run": str(tmp_path / "first"), "step": step, "left_out": []}
        expected = trainable(tmp_path / "first", checkpoint=checkpoint.removeprefix("#"))
        for name, value in trainable(folder).items():
            np.testing.assert_array_equal(value, expected[name])


def test_a_head_for_other_classes_begins_anew(tmp_path):
    fit(config(), tmp_path / "first")
    start = {"start": str(tmp_path / "first"), "steps": 1}
    found = fit(config(train=start, data={"classes": "5,6,7"}, optim={"lr": 0.0}), tmp_path / "all")
    assert found["start"]["left_out"] == ["method/head/bias", "method/head/kernel"]
    old, new = trainable(tmp_path / "first"), trainable(tmp_path / "all")
    assert new["method/head/kernel"].shape[-1] == 3
    np.testing.assert_array_equal(new["method/prompts/0"], old["method/prompts/0"])


@pytest.mark.parametrize(
    ("label", "sections", "message"),
    [
        ("linear", {}, "another method.name: vpt.VPT there, finetune.Linear here"),
        ("vpt_deep", {"backbone": {"weights": "", "pos_std": 0.1}}, "another frozen weights"),
        ("vpt_deep", {"method": {"num_tokens": 3}}, "method/prompts/0 is (8, 48) in"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(tmp_path, label, sections, message):
    fit(config(), tmp_path / "first")
    given = {"train": {"start": str(tmp_path / "first")}, "data": {"preset": "digits"}}
    with pytest.raises(UserError, match="train.start: ") as error:
        fit(config(label, **given, **sections), tmp_path / "second")
    assert message in str(error.value)


def test_a_start_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is no run of vpjax"):
        fit(config(train={"start": str(tmp_path / "nowhere")}), tmp_path / "second")


@pytest.mark.parametrize("where", ["gs://bucket/run", "s3://a/b", "GS://b/c", "https://host/run"])
def test_an_address_is_no_workdir(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["train", "--config=digits:linear"], ["eval"], ["predict"], ["plot"]):
        done = command(*words, f"--workdir={where}")
        assert (
            done.returncode == 2 and "is an address, and a run needs a folder" in done.stderr_text
        )
    with pytest.raises(UserError, match="is an address"):
        vpjax.load_run(where)
    assert not list(tmp_path.iterdir())


def test_extend_on_the_command_line(tmp_path):
    words = ["--config=digits:vpt_deep", f"--workdir={tmp_path}", "--config.draw=False"]
    assert command(*words, "--config.train.steps=2").returncode == 0
    done = command(*words, "--config.train.steps=4", "--extend")
    assert done.returncode == 0, done.stderr_text
    assert result(tmp_path)["step"] == 4 and newest(tmp_path).name == "4"


def published(path, tokens=8, layers=4, dim=48):
    """Returns prompts as VPT's published code writes them, and their file."""
    draw = np.random.default_rng(0).standard_normal
    tree = {
        "shallow_prompt": draw((1, tokens, dim)),
        "deep_prompt": draw((layers - 1, tokens, dim)),
    }
    tree = {name: value.astype(np.float32) for name, value in tree.items()}
    return tree, torch_files.write(path, tree)


def test_a_run_begins_with_prompts_of_the_published_code(tmp_path):
    count = len([n for n in shapes_of("vpt_deep") if n.startswith("method/prompts/")])
    tree, path = published(tmp_path / "prompt_ep3.pth", layers=count)
    start = {"start": str(path), "steps": 1}
    found = fit(config(train=start, optim={"lr": 0.0}), tmp_path / "run")
    assert found["start"]["file"] == str(path) and len(found["start"]["sha256"]) == 64
    assert found["start"]["left_out"] == ["method/head/bias", "method/head/kernel"]
    learnt = trainable(tmp_path / "run")
    np.testing.assert_array_equal(learnt["method/prompts/0"], tree["shallow_prompt"][0])
    np.testing.assert_array_equal(learnt["method/prompts/1"], tree["deep_prompt"][0])


def shapes_of(label):
    from vpjax.runs.experiment import prepare

    return prepare(config(label)).state.trainable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 3}, r"method/prompts/0 is \(3, 48\) in .*prompt_ep3.pth and \(8, 48\) here"),
        ({"layers": 2}, r"method/prompts/\d is absent in .*prompt_ep3.pth and \(8, 48\) here"),
        ({"layers": 9}, r"method/prompts/more is .* in .*prompt_ep3.pth and absent here"),
    ],
)
def test_prompts_of_the_published_code_that_do_not_fit(tmp_path, changes, message):
    _, path = published(tmp_path / "prompt_ep3.pth", **changes)
    with pytest.raises(UserError, match=f"train.start: {message}"):
        fit(config(train={"start": str(path)}), tmp_path / "run")
    with pytest.raises(UserError, match="cannot begin a run of finetune.Linear"):
        fit(config("linear", train={"start": str(path)}), tmp_path / "other")


def test_options_of_several_values_are_the_same_after_saving():
    """Checkpoints keep their record as JSON, whose lists were tuples."""
    own = config()
    own.method = section("methods", "sa2vp.SA2VP")
    record = restore.Record(own, ("a", "b"), "digits", {"name": "vit.ViT"})
    saved = {"config": flat(own), "classes": ["a", "b"], "preset": "digits", "arrays": {}}
    saved["backbone"] = {"name": "vit.ViT"}
    assert restore.differences(json.loads(json.dumps(saved)), record, {}) == []
    own.method.branch_weights = (0.5, 0.5)
    (line,) = restore.differences(json.loads(json.dumps(saved)), record, {})
    assert line == "method.branch_weights: (0.8, 0.2) there, (0.5, 0.5) now"
