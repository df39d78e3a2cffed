"""From run folders to tables: which runs are counted, in which table, under which name."""

import os
import re

import numpy as np

from tests.helpers import results
from vpjax.core import files
from vpjax.core.errors import Diverged, UserError
from vpjax.data.benchmarks import BENCHMARKS
from vpjax.report import sections
from vpjax.report.comparability import assign_columns
from vpjax.report.markdown import markdown
from vpjax.report.means import means, overall, ranks
from vpjax.report.run_folders import find
from vpjax.report.tables import split_off_trials, tables
from vpjax.runs import config as configs
from vpjax.runs import workdir

# Numbers


def test_means_of_vtab_are_those_of_the_paper(tmp_path):
    results.paper(tmp_path)
    (table,) = results.tables_of(tmp_path)
    assert table.methods == ("bias_&_100%", "vpt_deep")  # the fewest parameters first
    assert len(table.columns) == 19
    found = {mean.name: mean for mean in means(table, "vpt_deep")}
    assert [round(found[g].value, 1) for g in ("natural", "specialised", "structured")] == [
        78.5,
        82.4,
        55.0,
    ]
    paper = np.array(list(results.PAPER.values()))
    np.testing.assert_allclose(found["mean of 19 tasks"].value, paper.mean())
    of_groups = np.mean([np.mean(p) for p in np.split(paper, [7, 11])])
    np.testing.assert_allclose(found["mean of 3 groups"].value, of_groups)
    assert found["mean of 3 groups"].value - found["mean of 19 tasks"].value > 2
    spread = np.std([-0.5, 0.0, 0.5])
    for mean in found.values():
        np.testing.assert_allclose(mean.std, spread)
    np.testing.assert_allclose(found["natural"].published, 63.0)  # 60 + mean of 0..6
    name, values = overall(table)
    assert name == "mean of 3 groups" and set(values) == set(table.methods)


def test_cells_have_seeds_spread_and_a_verdict(tmp_path):
    expected = {"value": 70.0, "tolerance": 1.0, "source": "Table 1"}
    scores = {"dtd": (69.5, 70.5), "svhn": (72.0, 73.0), "pets": (60.0, 61.0)}
    for task, values in scores.items():
        for seed, value in enumerate(values):
            config = results.config_of("vtab", task, seed, expected=expected)
            results.write(tmp_path / task / "vpt" / f"seed{seed}", config, value)
    (table,) = results.tables_of(tmp_path)
    row = table.row("vpt")
    assert [row[t].verdict for t in ("dtd", "svhn", "pets")] == ["within", "above", "below"]
    assert row["dtd"].mean == 70.0 and row["dtd"].std == 0.5
    assert row["dtd"].scores == {0: 69.5, 1: 70.5}
    text = markdown([sections.against_published(table)], tmp_path)
    assert re.search(
        r"svhn +\| vpt +\| 72.5 ± 0.5 \(2\) +\| +70.0 \| +± 1.0 \| +\+2.5 \| above", text
    )


def test_one_seed_has_no_spread_and_no_tolerance_no_verdict(tmp_path):
    config = results.config_of("vtab", "dtd", expected={"value": 70.0})
    results.write(tmp_path / "vpt" / "seed0", config, 69.0)
    (table,) = results.tables_of(tmp_path)
    cell = table.row("vpt")["dtd"]
    assert cell.std is None and cell.verdict == "" and cell.published == 70.0
    assert " 69.0 (1) |" in markdown([sections.by_data_set(table)], tmp_path)


def test_an_incomplete_benchmark_has_no_mean(tmp_path):
    results.vtab(tmp_path, "vpt", 60.0, tasks=["dtd", "svhn", *list(BENCHMARKS["vtab"])[7:11]])
    results.vtab(tmp_path, "linear", 50.0, tasks=["dtd", "svhn"], trainable=5)
    (table,) = results.tables_of(tmp_path)
    found = {mean.name: mean for mean in means(table, "vpt")}
    assert found["mean of 19 tasks"].value is None and found["mean of 3 groups"].value is None
    assert found["specialised"].value is not None  # all four are there
    text = markdown([sections.summary(table)], tmp_path)
    assert "6 of 19 tasks" in text and "2 of 7 tasks" in text
    assert "mean of the 2 data sets all methods have" in text
    name, values = overall(table)
    np.testing.assert_allclose(values["linear"].value, np.mean([50.5, 51.5]))
    assert "-" in [
        cell.strip() for cell in markdown([sections.by_data_set(table)], tmp_path).split("|")
    ]


def test_ranks_share_ties_and_skip_what_is_missing(tmp_path):
    for label, values in {"a": (70, 60), "b": (70, 50), "c": (80, None)}.items():
        for task, value in zip(("dtd", "svhn"), values, strict=True):
            if value is not None:
                config = results.config_of("vtab", task)
                results.write(tmp_path / task / label / "seed0", config, float(value))
    (table,) = results.tables_of(tmp_path)
    found = dict(zip(table.methods, ranks(table).tolist(), strict=True))
    assert found["a"] == [2.5, 1.0] and found["b"] == [2.5, 2.0]
    assert found["c"][0] == 1.0 and np.isnan(found["c"][1])


# Which table


def test_a_data_set_counts_for_the_benchmark_whose_splits_it_uses(tmp_path):
    for suite, name in (("fgvc", "cub"), ("hta", "cub"), ("small", "digits/high"), ("vtab", "dtd")):
        results.write(tmp_path / suite / "vpt" / "seed0", results.config_of(suite, name), 50.0)
    other = results.config_of("vtab", "dtd", data={"name": "folder:birds"})
    results.write(tmp_path / "other" / "vpt" / "seed0", other, 50.0)
    found = find([tmp_path], tmp_path)
    where = {
        run.name.split(os.sep)[0]: c for run, c in zip(found, assign_columns(found), strict=True)
    }
    assert {name: column.suite for name, column in where.items()} == {
        "fgvc": "fgvc",
        "hta": "hta",
        "small": "small",
        "vtab": "vtab",
        "other": "",
    }
    assert where["other"].name == "folder:birds" and where["vtab"].group == "natural"
    assert [t.suite for t in results.tables_of(tmp_path)] == ["vtab", "fgvc", "hta", "small", ""]


def test_runs_that_only_chose_settings_stand_in_no_table(tmp_path):
    results.vtab(tmp_path, "vpt", 60.0, tasks=["dtd"])
    chosen = results.config_of("vtab", "dtd", data={"train": "train800", "val": "val200"})
    chosen.data.test = ""
    results.write(tmp_path / "trials" / "7", chosen, 90.0)
    found = find([tmp_path], tmp_path)
    pairs, aside = split_off_trials(found)
    assert len(pairs) == 3 and [run.name for run in aside] == ["trials/7"]
    (table,) = tables(found)
    assert table.methods == ("vpt",)
    assert not sections.warnings([table], found, aside)
    assert "3 runs, 1 method, 1 data set" in sections.scope([table], found, aside)
    assert "1 run more served to choose settings on val:" in sections.scope([table], found, aside)


def test_what_tune_leaves_is_read(tmp_path):
    place = tmp_path / "svhn"
    plan = results.config_of("vtab", "svhn", label="vpt_deep, paper")
    for name, value in {"lr=0.1": 60.0, "lr=1.0": 61.0}.items():
        trial = results.config_of("vtab", "svhn", data={"train": "train800", "val": "val200"})
        trial.data.test, trial.study.label = "", plan.study.label
        results.write(place / "select" / name, trial, value)
    diverged = results.start(place / "select" / "lr=9.0", trial)
    workdir.write_failure(diverged, Diverged("the loss is nan at step 3"))
    configs.save(plan, place / "plan.json")
    choice = {
        "name": "lr=1.0",
        "params": {"optim.lr": 1.0},
        "val": 61.0,
        "trials": {"diverged": 1, "finished": 2},
    }
    files.write_json(
        place / "choice.json", choice | {"edges": {"optim.lr": "largest"}, "table": []}
    )
    for seed in (42, 44):
        config = results.config_of("vtab", "svhn", seed, label=plan.study.label)
        results.write(place / "final" / f"seed{seed}", config, 70.0 + seed)
    (place / "final" / "seed82").mkdir()  # which failed before it had a config
    workdir.write_failure(place / "final" / "seed82", UserError("no such file"))
    found = find([tmp_path], tmp_path)
    aside = split_off_trials(found)[1]
    assert sorted(run.status for run in aside) == ["diverged", "finished", "finished"]
    (table,) = tables(found)
    assert table.methods == ("vpt_deep, paper",)
    cell = table.row("vpt_deep, paper")["svhn"]
    assert list(cell.scores) == [42, 44]
    assert [(run.seed, run.status) for run in cell.failed] == [(82, "failed")]
    assert sections.warnings([table], found, aside) == ["svhn/final/seed82: failed, no such file"]
    assert "3 runs more served to choose settings on val, of which 1 did not finish" in (
        sections.scope([table], found, aside)
    )
    (row,) = sections.chosen_settings(table).rows
    assert row[2:] == ["lr=1.0", "61.00", "1 diverged, 2 finished", "optim.lr is the largest"]


def test_final_runs_without_a_label_are_called_as_their_class(tmp_path):
    config = results.config_of("vtab", "svhn")
    configs.save(config, tmp_path / "plan.json")
    results.write(tmp_path / "final" / "seed0", config, 70.0)
    (table,) = results.tables_of(tmp_path)
    assert table.methods == ("vpt.VPT",)


def test_runs_without_test_are_reported_on_val_and_selecting_on_it_is_a_warning(tmp_path):
    config = results.config_of("inat", "2018", data={"val": "val"}, train={"select": "best"})
    results.write(tmp_path / "vpt" / "seed0", config, 60.0)
    found = find([tmp_path], tmp_path)
    (table,) = tables(found)
    assert table.title == "iNaturalist" and table.row("vpt")["2018"].runs[0].split == "val"
    (text,) = sections.warnings([table], found, [])
    assert "chose its checkpoint on the images it reports (val)" in text
