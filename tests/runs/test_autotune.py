"""Attention and remat by measurement: what is compared, kept, recalled, and left alone."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.runs import config, result
from vpjax.core.errors import UserError
from vpjax.models.partition import partition
from vpjax.nn.attention import candidates
from vpjax.runs import autotune
from vpjax.runs.autotune import Bench, choose, load_choice, needs_autotune
from vpjax.runs.experiment import abstract_model, prepare, resolve_attention
from vpjax.runs.features import with_cached_features
from vpjax.runs.fit import fit
from vpjax.runs.scores import evaluate_run
from vpjax.train import memory

MIB = 2**20
NEEDS = {"none": 100 * MIB, "dots": 60 * MIB, "full": 20 * MIB}
MS = {"xla": 10.0, "blockwise": 5.0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))


def settings(attention="measured", remat="none", **sections):
    found = config(mesh={"data": 1}, **sections)
    found.attention, found.remat = attention, remat
    return found


@functools.cache
def prepared():
    return with_cached_features(prepare(settings()))


def experiment(attention="measured", remat="none"):
    return prepared()._replace(config=settings(attention, remat))


@pytest.fixture
def bench(monkeypatch):
    """A bench that knows the answers; what it was asked for."""
    found = []

    def row(self, attention, remat):
        found.append((attention, remat))
        if remat == "none" and self.experiment.config.remat_segments:
            raise UserError("remat_segments")
        need = NEEDS[remat] - (10 * MIB if attention == "blockwise" else 0)
        return {"attention": attention, "remat": remat, "bytes": need, "ms": None}

    def milliseconds(self, attention, remat):
        found.append(("run", attention, remat))
        return MS[attention]

    monkeypatch.setattr(Bench, "row", row)
    monkeypatch.setattr(Bench, "milliseconds", milliseconds)
    free(monkeypatch, 1000)
    return found


def free(monkeypatch, mib):
    monkeypatch.setattr(autotune, "free_bytes", lambda mesh: mib and mib * MIB)


def test_what_is_measured_where():
    assert candidates(jnp.float32, 64, "cpu") == ["xla", "blockwise"]
    assert candidates(jnp.bfloat16, 64, "gpu") == ["xla", "cudnn"]
    assert candidates(jnp.float32, 64, "gpu") == ["xla", "blockwise"]
    assert candidates(jnp.bfloat16, 200, "gpu") == ["xla", "blockwise"]
    # Attention with a bias, or whose probabilities are dropped.
    assert candidates(jnp.bfloat16, None, "gpu") == ["xla"]
    assert resolve_attention(settings()) == "xla"


def test_nothing_is_measured_unasked(tmp_path, bench):
    given = experiment("auto", "none")
    assert not needs_autotune(given.config)
    assert autotune.autotune(given, tmp_path) is given
    assert not bench
    assert not (tmp_path / "choices.json").exists()


def test_the_fastest_is_taken_logged_and_kept(tmp_path, bench, caplog):
    run, again = tmp_path / "run", tmp_path / "again"
    run.mkdir(), again.mkdir()
    with caplog.at_level("INFO", logger="vpjax"):
        chosen = autotune.autotune(experiment(), run)
    assert (chosen.attention, chosen.remat) == ("blockwise", "none")
    assert chosen.parts.graph != experiment().parts.graph
    assert "attention xla, remat none: 100 MiB of 1000 free, 10.0 ms a step" in caplog.text
    assert "attention blockwise, remat none: 90 MiB of 1000 free, 5.0 ms a step" in caplog.text
    assert json.loads((run / "choices.json").read_text())["choice"] == ["blockwise", "none"]
    # Another run of the same shapes knows it already.
    bench.clear()
    assert autotune.autotune(experiment(), again).attention == "blockwise"
    assert not bench
    # The run itself goes on as it began, whatever is measured meanwhile.
    for path in (tmp_path / "cache" / "choices").iterdir():
        path.unlink()
    assert load_choice(experiment(), run).attention == "blockwise"
    assert autotune.autotune(experiment(), run).attention == "blockwise"
    assert not bench


def test_other_conditions_are_measured_anew(tmp_path, bench):
    autotune.autotune(experiment(), tmp_path)
    first, other = len(bench), experiment()
    other.config.train.batch_size = 16
    assert load_choice(other, tmp_path) is other
    autotune.autotune(other, tmp_path)
    assert len(bench) == 2 * first
    assert len(list((tmp_path / "cache" / "choices").iterdir())) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"facts": 1}', "choice", "rows"], ids=lambda t: t or "empty"
)
def test_a_damaged_file_is_named_and_measured_again(tmp_path, bench, caplog, text):
    folder = tmp_path / "run"
    folder.mkdir()
    autotune.autotune(experiment(), folder)
    (folder / "choices.json").unlink()
    [path] = (tmp_path / "cache" / "choices").iterdir()
    kept = json.loads(path.read_text())
    if text == "choice":
        text = json.dumps(kept | {"choice": ["flash", "none"]})
    if text == "rows":
        text = json.dumps(kept | {"rows": [{"attention": "xla"}]})
    path.write_text(text)
    bench.clear()
    assert autotune.autotune(experiment(), folder).attention == "blockwise"
    assert bench
    if "facts" not in text or "choice" in text:
        assert f"{path} is damaged" in caplog.text
    assert json.loads(path.read_text()) == kept


@pytest.mark.parametrize(
    ("mib", "choice", "tried"),
    [(1000, "none", 1), (None, "none", 1), (70, "dots", 2), (20, "full", 3), (5, "full", 3)],
)
def test_remat_is_the_first_that_fits(tmp_path, bench, monkeypatch, caplog, mib, choice, tried):
    free(monkeypatch, mib)
    assert autotune.autotune(experiment("auto", "auto"), tmp_path).remat == choice
    assert len(bench) == tried  # and nothing was run
    assert ("no candidate fits in memory" in caplog.text) == (mib == 5)


def test_less_memory_later_takes_another_from_what_is_known(bench, monkeypatch):
    rows, given = [], experiment("auto", "auto")
    assert choose(given, rows) == ("xla", "none")
    free(monkeypatch, 70)
    assert choose(given, rows) == ("xla", "dots")
    assert bench == [("xla", "none"), ("xla", "dots")]
    free(monkeypatch, 1000)
    assert choose(given, rows) == ("xla", "none")
    assert len(bench) == 2


def test_both_at_once_times_only_what_fits(bench, monkeypatch):
    free(monkeypatch, 95)
    assert choose(experiment("measured", "auto"), []) == ("blockwise", "none")
    assert bench == [
        ("xla", "none"),
        ("xla", "dots"),
        ("blockwise", "none"),
        ("run", "xla", "dots"),
        ("run", "blockwise", "none"),
    ]


def test_segments_leave_out_what_has_none(bench):
    given = experiment("auto", "auto")
    given.config.remat_segments = 2
    assert choose(given, []) == ("xla", "dots")
    given.config.remat = "none"
    with pytest.raises(UserError, match="remat_segments"):
        choose(given, [])


def test_several_processes_and_groups_decide_nothing(tmp_path, bench, monkeypatch):
    monkeypatch.setattr(autotune.distributed, "count", lambda: 2)
    with pytest.raises(UserError, match="put its choice into the config"):
        autotune.autotune(experiment(), tmp_path)


def test_another_attention_is_another_graph_of_the_same_numbers():
    e = experiment()
    options = {"mesh": e.mesh}
    graphs = [
        partition(abstract_model(e.config, 5, attention=name, **options)).graph
        for name in ("xla", "blockwise")
    ]
    assert graphs[0] == e.parts.graph and graphs[1][1] == e.parts.graph[1]
    assert graphs[1] != graphs[0]


def test_measuring_runs_the_step_and_leaves_the_state_alone():
    bench = Bench(experiment())
    row = bench.row("blockwise", "full")
    assert 0 < row["bytes"] < 2**30
    assert 0 < bench.milliseconds("blockwise", "full") < 60_000
    assert len(bench.programs) == 1
    assert not any(x.is_deleted() for x in jax.tree.leaves(prepared().state))


def test_a_run_trains_and_evaluates_with_what_was_taken(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Bench, "milliseconds", lambda self, attention, remat: MS[attention])
    given = settings(train={"steps": 2})
    with caplog.at_level("INFO", logger="vpjax"):
        fit(given, tmp_path)
    assert "compute   float32, attention blockwise, remat none" in caplog.text
    found = result(tmp_path)
    assert (found["attention"], found["remat"]) == ("blockwise", "none")
    assert found["startup"]["choice"] > 0
    assert evaluate_run(tmp_path)["test_loss"] == found["test_loss"]


def test_free_memory(monkeypatch, tmp_path):
    mesh = lambda **d: SimpleNamespace(local_devices=[SimpleNamespace(**d)] * 4)  # noqa: E731
    stats = {"bytes_limit": 1000, "bytes_in_use": 100}
    assert memory.free_bytes(mesh(platform="gpu", memory_stats=lambda: stats)) == 800
    assert memory.free_bytes(mesh(platform="gpu", memory_stats=lambda: None)) is None
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    there = memory.system_bytes()
    if there is None:
        pytest.skip("a system without /proc/meminfo")
    monkeypatch.setattr(memory, "system_bytes", lambda: 4000)
    assert memory.free_bytes(mesh(platform="cpu", memory_stats=lambda: None)) == 900
    monkeypatch.undo()
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.system_bytes() == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.system_bytes() > 4000
