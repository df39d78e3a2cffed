"""The start-up benchmark: cold is cold, warm is warm, and the table adds up."""

import json

import pytest

from benchmarks import startup
from vpjax.core.errors import UserError


@pytest.fixture
def launched(monkeypatch):
    """Processes that are not started; what was in the cache when each would have been."""
    found = []

    def launch(arguments, folder):
        programs = folder / "cache" / "xla"
        warm = programs.exists()
        programs.mkdir(parents=True, exist_ok=True)
        found.append((warm, arguments))
        seconds = dict.fromkeys(startup.PARTS, 1.0) | {"compile": 0.5 if warm else 4.0}
        return seconds | {"total": sum(seconds.values())}

    monkeypatch.setattr(startup, "launch", launch)
    return found


def test_every_warm_start_follows_a_cold_one(launched, tmp_path, capsys):
    startup.main(["startup", "--repeats=2", f"--out={tmp_path / 'x.json'}", "--config.seed=3"])
    assert [warm for warm, _ in launched] == [False, False, True, False, True]
    for _, arguments in launched:
        assert arguments[0] == "--config=configs/vpt_cifar224.py"
        assert "--config.backbone.weights=" in arguments
        assert arguments[-1] == "--config.seed=3"
    record = json.loads((tmp_path / "x.json").read_text())
    assert [len(record["starts"][kind]) for kind in ("cold", "warm")] == [2, 2]
    text = (tmp_path / "x.md").read_text()
    assert capsys.readouterr().out == text
    cold, warm = (line for line in text.splitlines() if line.startswith(("| cold", "| warm")))
    assert [c.strip() for c in cold.split("|")[3:5]] == ["9.0", "9.0 .. 9.0"]
    assert [c.strip() for c in warm.split("|")[3:5]] == ["5.5", "5.5 .. 5.5"]


def test_another_recipe_keeps_its_data(launched):
    startup.main(["startup", "--recipe=configs/digits.py:vpt_deep", "--repeats=1"])
    assert not any("data.name" in a for a in launched[0][1])
    assert "--config.train.steps=1" in launched[0][1]


def test_mistakes_are_explained(launched, tmp_path):
    with pytest.raises(UserError, match="stray"):
        startup.main(["startup", "stray"])
    with pytest.raises(UserError, match="repeats"):
        startup.main(["startup", "--repeats=0"])


@pytest.mark.slow
def test_processes_are_started_and_report(tmp_path):
    record = startup.benchmark(
        ["--config=configs/digits.py:vpt_deep", "--config.train.steps=1"], repeats=1
    )
    for kind in ("cold", "warm"):
        [found] = record["starts"][kind]
        assert found["total"] == pytest.approx(sum(found[p] for p in startup.PARTS), abs=0.01)
    assert record["starts"]["warm"][0]["compile"] < record["starts"]["cold"][0]["compile"]
    with pytest.raises(UserError, match="no_such_key"):
        startup.launch(["--config=configs/digits.py:vpt_deep", "--config.no_such_key=1"], tmp_path)
