"""Files of a run, and of studies of runs."""

import json
from pathlib import Path

from tests.faults.table import Case, kind
from tests.helpers import results
from vpjax.core.files import write_json
from vpjax.report import run_page
from vpjax.report.run_folders import find
from vpjax.report.write import report
from vpjax.runs import choice, classes, loggers, places, recorded, scores, workdir
from vpjax.runs.autotune import read_choice as read_measured
from vpjax.runs.history import Metrics, read_history
from vpjax.studies import compare

REPORTS = 60  # trials of what writes a whole report, which takes long
SIZES = {"train": {"name": "a[train]", "images": 4, "by_class": [2, 2]}}


def finished(folder: Path, name: str = "run") -> Path:
    """Write a run as it ends."""
    run = folder / "vpt_deep" / name
    config = results.config_of("fgvc", "cub", label="vpt <deep>")
    results.write(run, config, 80.0)
    write_json(run / places.FILE, {"run": str(run), "paths": {"data.dir": ["data", "/data"]}})
    found = classes.ClassInfo(("ant", "bee"), ({"name": "ant"}, {"name": "bee"}), False, 4, (2, 2))
    classes.write_classes(found, run)
    facts = {"classes": ["ant", "bee"], "rows": [0, 1], "columns": 6, "splits": SIZES}
    write_json(run / "examples.json", facts)
    (run / "per_class.csv").write_text("label,class,accuracy\n0,ant,50.0000\n1,bee,75.2500\n")
    heat = {"temperature": 1.25, "why_none": ""}
    write_json(run / "evaluation.json", {"step": 20, "calibration": heat, "test": {}})
    return run


def of_run(file: str, read, **more):
    """Return a kind whose reader gets the run's folder."""

    def made(folder: Path) -> Case:
        run = finished(folder)
        return Case(run / file, lambda: read(run), **more)

    return made


def _report(run: Path) -> None:
    """Read runs as a report does, and write all of it."""
    top = run.parents[1]
    names = {r.name: (r.status, r.reason) for r in find([top], top)}
    assert names
    report(top)


def _page(run: Path) -> None:
    run_page.write_run_page(run)


kind("config.json of a run")(of_run("config.json", recorded.load))
kind("config.json, in a report")(of_run("config.json", _report, most=REPORTS))
kind("config.json, a run's page")(of_run("config.json", _page))
kind("result.json")(of_run("result.json", workdir.read_result))
kind("result.json, in a report")(of_run("result.json", _report, most=REPORTS))
kind("result.json, a run's page")(of_run("result.json", _page))
kind("classes.json")(of_run("classes.json", classes.read_classes))
kind("place.json")(of_run("place.json", lambda run: recorded.load(run).data.dir))
kind("examples.json")(of_run("examples.json", _page))
kind("per_class.csv")(of_run("per_class.csv", _page))
kind("history, a run's page")(of_run("metrics.jsonl", _page))
kind("log.txt, a run's page")(of_run("log.txt", _page))


@kind("evaluation.json")
def evaluation(folder: Path) -> Case:
    run = finished(folder)
    read = lambda: scores.recorded_calibration(run, 20).get("temperature", 1.0) / 2  # noqa: E731
    return Case(run / "evaluation.json", read)


@kind("failed.json")
def failed(folder: Path) -> Case:
    from vpjax.core.errors import Diverged

    run = results.start(folder / "run", results.config_of("fgvc", "cub"))
    workdir.write_failure(run, Diverged("the loss is nan at step 3"))

    def read():
        return repr(workdir.read_failure(run)), repr(workdir.read_failure(run, final=False))

    return Case(run / "failed.json", read)


@kind("failed.json, in a report")
def failed_report(folder: Path) -> Case:
    case = failed(folder)
    return Case(case.file, lambda: [r.status for r in find([folder], folder)])


@kind("history")
def history(folder: Path) -> Case:
    results.start(folder / "run", results.config_of("fgvc", "cub"))
    file = folder / "run" / "metrics.jsonl"
    return Case(file, lambda: read_history(file))


@kind("history, gone on with")
def history_continued(folder: Path) -> Case:
    results.start(folder / "run", results.config_of("fgvc", "cub"))

    def read():
        with Metrics(folder / "run", resume_at=10) as metrics:
            metrics.write(11, {"loss": 0.5})

    return Case(folder / "run" / "metrics.jsonl", read)


@kind("names that loggers gave")
def ids(folder: Path) -> Case:
    write_json(folder / loggers.IDS, {"wandb": "abc", "mlflow": "17"})
    return Case(folder / loggers.IDS, lambda: loggers.ids(folder))


@kind("note on extensions")
def extended(folder: Path) -> Case:
    run = results.start(folder / "run", results.config_of("fgvc", "cub"))
    (run / "checkpoints" / "last" / "20").mkdir(parents=True)
    config = results.config_of("fgvc", "cub")
    config.train.epochs = 200.0
    workdir.record_extension(run, config, 40)
    file = run / workdir.EXTENDED
    return Case(file, lambda: workdir.record_extension(run, config, 40))


@kind("measured choice")
def measured(folder: Path) -> Case:
    row = {"attention": "xla", "remat": "none", "bytes": 100, "ms": 1.5}
    file = folder / "choices.json"
    write_json(file, {"choice": ["xla", "none"], "rows": [row], "facts": {"device": "cpu"}})

    def read():
        found = read_measured(file, {"device": "cpu"})
        return found and [r["bytes"] + (r["ms"] or 0) for r in found["rows"]]

    return Case(file, read)


@kind("choice of tune")
def chosen(folder: Path) -> Case:
    row = {"trial": 0, "name": "lr=0.1", "status": "finished", "val": 80.0, "optim.lr": 0.1}
    content = {"name": "lr=0.1", "params": {"optim.lr": 0.1}, "val": 80.0, "rule": "highest"}
    content |= {"made": "", "data": {}, "trials": {"finished": 1}, "edges": {}, "table": [row]}
    file = folder / "choice.json"
    write_json(file, content)
    return Case(file, lambda: choice.read_choice(file))


@kind("choice of tune, in a report")
def chosen_report(folder: Path) -> Case:
    case = chosen(folder)
    (folder / "plan.json").write_text(
        json.dumps(results.config_of("fgvc", "cub").to_dict(), default=list)
    )
    results.write(folder / "final" / "seed0", results.config_of("fgvc", "cub"), 80.0)
    return Case(case.file, lambda: report(folder), most=REPORTS)


@kind("result.json of a comparison")
def compared(folder: Path) -> Case:
    runs = [finished(folder, f"seed{i}") for i in range(2)]
    config = recorded.load(runs[0])

    def read():
        found = [workdir.open_workdir(run, config) for run in runs]
        return compare.summary("vpt", [f for f in found if f])

    return Case(runs[0] / "result.json", read)
