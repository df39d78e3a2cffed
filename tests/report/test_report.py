"""The files of `report`: Markdown, CSV, LaTeX, one page; and real runs."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import results, runs
from tests.helpers.pages import parsed
from vpjax.report import csv_tables
from vpjax.report.blocks import Grid, Heading, Picture, Text
from vpjax.report.finish import draw_results
from vpjax.report.latex import escaped, latex
from vpjax.report.markdown import markdown
from vpjax.report.write import report
from vpjax.runs.fit import fit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two methods on all of VTAB-1k, three seeds each; reported."""
    top = results.paper(tmp_path_factory.mktemp("vtab"))
    report(top)
    return top


def test_the_csv_reads_back_as_what_was_written(whole):
    rows = csv_tables.number_rows(results.tables_of(whole))
    with open(whole / "report.csv", newline="") as file:
        back = list(csv.DictReader(file))
    assert len(back) == len(rows) == 2 * (19 + 5)
    for mine, theirs in zip(rows, back, strict=True):
        assert set(mine) <= set(theirs)
        for key in theirs:
            value = mine.get(key)
            if isinstance(value, float):
                assert float(theirs[key]) == value
            else:
                assert theirs[key] == ("" if value is None else str(value))


def cells_of(line):
    """How many columns a line of a LaTeX table fills."""
    spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
    return len(re.findall(r"(?<!\\)&", line)) + 1 + spans


def test_latex_is_well_formed(whole):
    text = (whole / "report.tex").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\{}&%$#_]", "", code.replace(r"\textbackslash{}", ""))
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)[#_^~]", bare)
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    (layout,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", code)
    rows = [line for line in code.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 + 2 * 2  # groups, names, and two lines a method
    assert [cells_of(row) for row in rows] == [len(layout)] * len(rows) == [2 + 19 + 3 + 2] * 6
    assert r"bias\_\&\_100\%" in code and r"\textbf{69" in code
    assert "%" not in bare.replace("{%", "")


def test_latex_letters():
    assert escaped(r"a_b & 5% {x} \ ~^") == (
        r"a\_b \& 5\% \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}"
    )


def test_the_page_needs_no_other_file(whole):
    page = parsed(whole / "report.html")
    assert not {"iframe", "object"} & set(page.tags) and page.tags.count("script") == 1
    assert "://" not in (whole / "report.html").read_text()
    assert len(page.images) == 3
    assert all(link.startswith(("#", "data:")) for link in page.links)
    for image in page.images:
        assert image["alt"]
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert picture.std() > 5
    text = "\n".join(page.text)
    for said in ("VTAB-1k", "mean of 19 tasks", "mean of 3 groups", "structured mean", "published"):
        assert said in text
    for said in ("Table 1 of <Paper> & co", "bias_&_100%", "legacy_bilinear", "2026-03-01"):
        assert said in text
    assert results.SHA[:16] in text and "digest abababababab" in text and "0.10.2" in text


def test_markdown_points_at_pictures_that_exist(whole):
    text = (whole / "report.md").read_text()
    files = re.findall(r"!\[[^\]]+\]\(<([^>]+)>\)", text)
    assert len(files) == 3 and all((whole / file).exists() for file in files)
    assert "| vpt\\_deep " in text


def test_markdown_does_not_read_names_as_marks(tmp_path):
    blocks = [Heading("a_b*"), Text("<b>[x]"), Grid(["h"], [["a|b"], [""]])]
    text = markdown([*blocks, Picture(tmp_path / "p.png", "p")], tmp_path)
    assert "## a\\_b\\*" in text and "\\<b\\>\\[x\\]" in text and "| a\\|b |" in text


def test_a_report_replaces_its_pictures(tmp_path):
    results.vtab(tmp_path, "vpt", 60.0, tasks=["dtd"], seeds=(0,))
    (tmp_path / "report_hta_ranks.png").write_bytes(b"old")
    report(tmp_path)
    assert [p.name for p in tmp_path.glob("*.png")] == ["report_vtab_accuracy.png"]


def test_one_run_has_a_page_of_its_own(tmp_path):
    folder = tmp_path / "a run"
    config = results.config_of("vtab", "dtd", expected={"value": 70.0, "tolerance": 1.0})
    results.write(folder, config, 69.25)
    Image.new("RGB", (8, 8), "red").save(folder / "prompt_map.png")
    report(folder)
    page = parsed(folder / "run.html")
    text = page.words
    assert (
        "69.25 %" in text
        and "this run differs by -0.8 points" in text
        and "method.num_tokens" in text
    )
    assert "step 20, test accuracy" in text  # the log
    first, second = (image["alt"] for image in page.images)
    assert first.startswith("Loss, accuracy") and second.startswith("Prompt map")
    report(folder)  # a second time
    assert len(parsed(folder / "run.html").images) == 2
    assert "prompt_map.png" in (folder / "report.md").read_text()


def test_an_unfinished_run_has_a_page(tmp_path):
    results.start(tmp_path / "run", results.config_of("vtab", "dtd"))
    report(tmp_path / "run")
    page = parsed(tmp_path / "run" / "run.html")
    assert "The run is unfinished: no result.json" in page.words
    assert len(page.images) == 1


def test_data_with_several_classes_an_image_is_reported_by_map(tmp_path):
    for seed in (0, 1):
        config = results.config_of("vtab", "dtd", seed, data={"name": "folder:chest"})
        folder = tmp_path / "vpt" / f"seed{seed}"
        changes = {"test_accuracy": None, "test_map": 40.0 + seed, "metric": "map"}
        results.write(folder, config, 0.0, **changes)
    (table,) = results.tables_of(tmp_path)
    cell = table.row("vpt")["folder:chest"]
    assert (cell.metric, cell.mean) == ("map", 40.5)
    report(tmp_path)
    with open(tmp_path / "report.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["metric"], row["mean"], row["std"]) == ("map", "40.5", "0.5")
    with open(tmp_path / "report_runs.csv") as file:
        assert [(r["metric"], r["value"]) for r in csv.DictReader(file)] == [
            ("map", "40.0"),
            ("map", "41.0"),
        ]
    report(tmp_path / "vpt" / "seed1")
    assert "mAP 41.00 %" in " ".join(parsed(tmp_path / "vpt" / "seed1" / "run.html").text)


# Real runs


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two short trainings of the embedded data."""
    top = tmp_path_factory.mktemp("real")
    for label in ("linear", "vpt_deep"):
        config = runs.config(label, train={"steps": 4, "log_every": 2, "eval_every": 1.0})
        fit(config, top / label / "seed0", finish=draw_results)
    return top


def test_report_of_real_runs(real):
    assert report(real / "out", [real]) == real / "out" / "report.html"
    with open(real / "out" / "report.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"linear", "vpt_deep"}
    for label, row in rows.items():
        result = runs.result(real / label / "seed0")
        assert float(row["mean"]) == result["test_accuracy"]
        assert float(row["trainable"]) == result["trainable"]
        assert row["weights_sha256"] == result["weights"]["sha256"]
        assert row["preset"] == "digits at 8 pixels"
    page = parsed(real / "out" / "report.html")
    assert len(page.images) == 2 and "../linear/seed0/run.html" in page.links
    assert "Small data sets" in latex(results.tables_of(real))


def test_report_of_one_real_run_and_of_runs_that_do_not_compare(real):
    folder = real / "vpt_deep" / "seed0"
    page = parsed(folder / "run.html")  # written when the run ended
    assert f"{runs.result(folder)['test_accuracy']:.2f} %" in page.words
    assert "1,781 (2.25 %)" in page.words
    assert sum("(" in image["alt"] for image in page.images) == 5  # examples of the classes
    assert report(folder) == folder / "run.html"
    changed = json.loads((folder / "result.json").read_text()) | {"preset": "inception"}
    (folder / "result.json").write_text(json.dumps(changed))
    text = parsed(report(real)).words
    assert "so these runs are 2 tables" in text and "preset: inception at 8 pixels" in text
    assert (real / "report_small_1_accuracy.png").exists()
