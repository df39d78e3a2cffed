"""Runs that are in no table, and runs that cannot share one: tables of their own, and notices."""

import csv
import os

import pytest

from tests.helpers import results
from vpjax.core.errors import UserError
from vpjax.data.benchmarks import BENCHMARKS
from vpjax.report import sections
from vpjax.report.markdown import markdown
from vpjax.report.means import means
from vpjax.report.run_folders import find
from vpjax.report.tables import tables
from vpjax.report.write import report

# What does not mix


def other_data(config):
    return {"data_fingerprint": "cd" * 32}


def other_preset(config):
    config.data.preset = "sa2vp_vtab"
    return {}


def other_weights(config):
    return {"weights": {"where": "mae.npz", "sha256": "0" * 64, "resized": ""}}


def other_protocol(config):
    config.data.train = "train800"
    return {}


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("preset", other_preset, "preset: sa2vp_vtab at 224 pixels"),
        ("weights", other_weights, "mae.npz, sha256 0000000000000000"),
        ("protocol", other_protocol, "trained on train, reported on test"),
        ("data", other_data, "data: vtab/dtd:1.0.0, digest "),
    ],
)
def test_sources_do_not_mix_in_a_column(tmp_path, kind, change, said):
    results.write(tmp_path / "vpt" / "seed0", results.config_of("vtab", "dtd"), 60.0)
    config = results.config_of("vtab", "dtd")
    changes = change(config)
    results.write(tmp_path / "linear" / "seed0", config, 50.0, **changes)
    parted = results.tables_of(tmp_path)
    assert sorted(t.methods for t in parted) == [("linear",), ("vpt",)]
    assert len({t.title for t in parted}) == 2 and all("VTAB-1k" in t.title for t in parted)
    (text,) = [t.notice for t in parted if t.methods == ("linear",)]
    assert "so these runs are 2 tables" in text and "linear/seed0" in text
    assert said in " ".join(t.notice for t in parted) and f"{kind}: " in text + parted[1].notice
    assert any("cannot be compared" in w for w in sections.warnings(parted, [], []))
    if kind != "data":
        asked = results.tables_of(tmp_path, [kind])
        assert len(asked) == 2 and not any(t.notice for t in asked)


def test_sources_do_not_mix_in_a_mean(tmp_path):
    results.write(tmp_path / "vpt" / "seed0", results.config_of("vtab", "dtd"), 60.0)
    config = results.config_of("vtab", "svhn")
    other_preset(config)
    results.write(tmp_path / "vpt" / "seed1", config, 60.0)
    parted = results.tables_of(tmp_path)
    assert [[c.name for c in t.columns] for t in parted] == [["dtd"], ["svhn"]]
    assert all("preset: " in t.notice for t in parted)
    # Image folders are copies of TFDS's images that give other numbers.
    config = results.config_of("vtab", "svhn", data={"name": "vtab1k:/data/svhn"})
    results.write(tmp_path / "more" / "vpt" / "seed0", config, 60.0)
    os.remove(tmp_path / "vpt" / "seed1" / "config.json")
    parted = results.tables_of(tmp_path)
    assert {t.title for t in parted} == {"VTAB-1k, vtab1k", "VTAB-1k, original release"}


def test_a_release_that_tfds_has_not_joins_the_mean(tmp_path):
    for task in BENCHMARKS["fgvc"]:
        config = results.config_of("fgvc", task)
        results.write(tmp_path / task / "vpt" / "seed0", config, 80.0)
    (table,) = results.tables_of(tmp_path)
    (mean,) = means(table, "vpt")
    assert mean.name == "mean of 5 data sets" and mean.value == 80.0
    config = results.config_of("fgvc", "cub", data={"name": "fgvc:/lists/cub", "train": "train"})
    results.write(tmp_path / "listed" / "other" / "seed0", config, 80.0)
    most, other = results.tables_of(tmp_path)
    assert len(most.columns) == 5 and other.methods == ("other",) and "protocol: " in other.notice


def test_a_cell_holds_seeds_of_one_config(tmp_path):
    for seed, rate in enumerate((0.1, 0.5)):
        config = results.config_of("vtab", "dtd", seed, optim={"lr": rate})
        results.write(tmp_path / "vpt" / f"seed{seed}", config, 60.0)
    (table,) = results.tables_of(tmp_path)
    assert set(table.methods) == {"vpt, lr 0.1", "vpt, lr 0.5"}
    assert "Runs called vpt on dtd are not seeds of one config: they differ in optim.lr" in (
        table.notice
    )
    (table,) = results.tables_of(tmp_path, ["optim.lr"])
    assert set(table.methods) == {"vpt, lr 0.1", "vpt, lr 0.5"}
    with pytest.raises(
        UserError, match="unknown name in --group_by 'optim.lrr'. Did you mean 'optim.lr"
    ):
        results.tables_of(tmp_path, ["optim.lrr"])


def test_a_seed_is_counted_once(tmp_path):
    for place in ("a", "b"):
        config = results.config_of("vtab", "dtd", draw=place == "a")  # which changes no number
        results.write(tmp_path / place / "vpt" / "seed0", config, 60.0)
    (table,) = results.tables_of(tmp_path)
    assert "a/vpt/seed0 and b/vpt/seed0 are the same experiment" in table.notice
    assert set(table.methods) == {"vpt", "vpt [b/vpt/seed0]"}
    assert all(len(cell.runs) == 1 for cell in table.cells.values())
    assert len(find([tmp_path / "a", tmp_path], tmp_path)) == 2  # a folder given twice is read once


def test_one_name_of_two_classes_becomes_two_rows(tmp_path):
    results.write(tmp_path / "a" / "run" / "seed0", results.config_of("vtab", "dtd"), 60.0)
    config = results.config_of("vtab", "dtd")
    results.write(tmp_path / "b" / "run" / "seed0", config, 60.0, method="side.Side")
    (table,) = results.tables_of(tmp_path)
    assert set(table.methods) == {"run (vpt.VPT)", "run (side.Side)"}


def test_versions_of_a_data_set_do_not_mix_and_the_rest_stays(tmp_path):
    for label, digest in (("a", "ab"), ("b", "ab"), ("c", "cd")):
        config = results.config_of("vtab", "dtd", label=label)
        results.write(tmp_path / label / "dtd", config, 60.0, data_fingerprint=digest * 32)
        results.write(tmp_path / label / "svhn", results.config_of("vtab", "svhn", label=label), 50)
    most, other = results.tables_of(tmp_path)
    assert set(most.methods) == {"a", "b", "c"} and most.shared == ["svhn"]
    assert other.methods == ("c",) and "digest cdcdcdcdcdcd" in other.title
    assert "dtd" not in most.row("c")


# What is not finished


def test_what_is_not_finished_is_said_and_not_averaged(tmp_path):
    results.vtab(tmp_path, "vpt", 60.0, tasks=["dtd"])
    place = tmp_path / "dtd" / "vpt"
    results.start(place / "seed7", results.config_of("vtab", "dtd", 7))
    results.write(place / "seed8", results.config_of("vtab", "dtd", 8), float("nan"))
    results.write(
        place / "seed9",
        results.config_of("vtab", "dtd", 9),
        5.0,
        status="failed",
        reason="out of memory",
    )
    results.start(tmp_path / "broken", results.config_of("vtab", "svhn"))
    (tmp_path / "broken" / "result.json").write_text("{")
    results.write(tmp_path / "short", results.config_of("vtab", "svhn"), 5.0, preset=None)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"hidden_size": 768}')
    found = find([tmp_path], tmp_path)
    assert {run.name: run.status for run in found if not run.finished} == {
        "broken": "damaged",
        "dtd/vpt/seed7": "unfinished",
        "dtd/vpt/seed8": "diverged",
        "dtd/vpt/seed9": "failed",
        "short": "damaged",
    }
    (table,) = tables(found)
    cell = table.row("vpt")["dtd"]
    assert len(cell.runs) == 3 and len(cell.failed) == 3 and cell.mean < 70
    assert "(3) †" in markdown([sections.by_data_set(table)], tmp_path)
    said = "\n".join(sections.warnings([table], found, []))
    assert "dtd/vpt/seed7: unfinished, no result.json; the history ends at step 20" in said
    assert "dtd/vpt/seed8: diverged, test_accuracy is nan" in said
    assert "dtd/vpt/seed9: failed, out of memory" in said
    assert "short: damaged, result.json lacks preset" in said
    report(tmp_path)
    with open(tmp_path / "report_runs.csv") as file:
        assert len(list(csv.DictReader(file))) == len(found) == 8


def test_seeds_far_apart_are_said(tmp_path):
    for seed, value in enumerate((65.9, 80.4, 81.8)):
        config = results.config_of("vtab", "svhn", seed)
        results.write(tmp_path / "vpt" / f"seed{seed}", config, value)
    found = find([tmp_path], tmp_path)
    (text,) = sections.warnings(tables(found), found, [])
    assert "in 1 of its numbers; the widest is vpt on svhn, 65.9 to 81.8" in text


def test_what_cannot_be_written_is_said(tmp_path):
    results.vtab(tmp_path / "runs", "vpt", 60.0, tasks=["dtd"], seeds=(0,))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out cannot be written .* another --workdir"):
        report(tmp_path / "out", [tmp_path / "runs"])


def test_no_runs_is_an_error_that_says_where(tmp_path):
    with pytest.raises(UserError, match="no run in .*config.json"):
        report(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        report(tmp_path, [tmp_path / "nowhere"])
