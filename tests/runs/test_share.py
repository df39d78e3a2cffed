"""Runs pushed and pulled: a folder, and a hub on this machine."""

import shutil

import numpy as np
import pytest
import yaml

from tests.helpers import runs
from tests.helpers.hub import serve, use
from vpjax.core.errors import UserError
from vpjax.runs import model_file
from vpjax.runs.addresses import is_on_hub
from vpjax.runs.fit import fit
from vpjax.runs.run import load_run
from vpjax.runs.share import pull_run, push_run

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of prompts on the embedded digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    fit(runs.config(), folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub; yields the folder of its repositories."""
    with serve(tmp_path / "models", gated="lab/gated") as (address, _):
        use(monkeypatch, address, tmp_path / "cache")
        yield tmp_path / "models"


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def same(folder, other):
    """Check that both hold the same: `tests.runs.test_model_file` loads such folders."""
    ours, theirs = (model_file.find(f) for f in (folder, other))
    assert model_file.read_facts(ours) == model_file.read_facts(theirs)
    assert model_file.read_arrays(ours).keys() == model_file.read_arrays(theirs).keys()
    for name in ("config.json", "classes.json"):
        assert (folder / name).read_text() == (other / name).read_text()


def test_a_folder_takes_a_run_and_gives_it_back(run, tmp_path):
    push_run(run, str(tmp_path / "shared"), licence="cc-by-4.0")
    names = {p.name for p in (tmp_path / "shared").iterdir()}
    assert {"README.md", "model.safetensors", "config.json", "classes.json"} <= names
    assert not names & {"checkpoints", "log.txt", ".lock"}
    same(run, tmp_path / "shared")
    pull_run(tmp_path / "shared", tmp_path / "mine")
    same(run, tmp_path / "mine")
    text = (tmp_path / "shared" / "README.md").read_text()
    said, result = front_matter(text), runs.result(run)
    assert said["license"] == "cc-by-4.0" and said["library_name"] == "vpjax"
    found = {
        r["dataset"]["split"]: r["metrics"][0]["value"] for r in said["model-index"][0]["results"]
    }
    assert found == {s: round(result[f"{s}_accuracy"], 2) for s in ("val", "test")}
    for words in ("num_tokens=8", "digits_vit", "1,781 parameters", "Apache-2.0", "5, 6, 7, 8, 9"):
        assert words in text


def test_the_hub_takes_a_run_and_gives_it_back(run, hub, tmp_path):
    address = push_run(run, "lab/digits")
    assert address.endswith("/lab/digits")
    assert (hub / "lab" / "digits" / "README.md").read_text().count("vpjax.load_run('lab/digits')")
    expected = load_run(run).predict(IMAGES).probabilities
    for name in ("lab/digits", "hf://lab/digits"):
        found = load_run(name).predict(IMAGES).probabilities
        np.testing.assert_array_equal(found, expected)
    pull_run("lab/digits", tmp_path / "mine")
    same(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "result.json").exists()


def test_what_goes_wrong_says_what_to_do(run, hub, tmp_path):
    with pytest.raises(UserError, match="hf auth login"):
        push_run(run, "lab/gated")
    with pytest.raises(UserError, match="the hub has no such model"):
        pull_run("lab/none", tmp_path / "mine")
    with pytest.raises(UserError, match="such as cc-by-4.0"):
        push_run(run, str(tmp_path / "shared"), licence="mine:\n- all")
    assert not (tmp_path / "shared").exists() and not (tmp_path / "mine").exists()
    (hub / "lab" / "other").mkdir(parents=True)
    (hub / "lab" / "other" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no shared run of vpjax"):
        pull_run("lab/other", tmp_path / "mine")


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "shared").mkdir()
    push_run(run, str(tmp_path / "shared"))  # empty
    with pytest.raises(UserError, match="exists already"):
        push_run(run, str(tmp_path / "shared"))
    with pytest.raises(UserError, match="exists already"):
        pull_run(run, tmp_path / "shared")


def test_a_run_without_the_file_gets_it(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / model_file.FILE).unlink()
    push_run(tmp_path / "old", str(tmp_path / "shared"))
    same(run, tmp_path / "shared")


def test_names_of_the_hub_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    on_hub = [
        w for w in ("lab/x", "hf://out/x", "out/x", "./lab/x", "x", "lab/x/y") if is_on_hub(w)
    ]
    assert on_hub == ["lab/x", "hf://out/x"]


def test_the_commands(run, hub, tmp_path):
    done = runs.command("push", f"--workdir={run}", "lab/digits", "--license=mit")
    assert (done.returncode, done.stdout_text.strip()[-10:]) == (0, "lab/digits")
    assert runs.command("pull", "lab/digits", f"--workdir={tmp_path / 'mine'}").returncode == 0
    assert front_matter((tmp_path / "mine" / "README.md").read_text())["license"] == "mit"
    done = runs.command("push", f"--workdir={tmp_path / 'none'}", str(tmp_path / "shared"))
    assert done.returncode == 2 and "no run of vpjax" in done.stderr_text
