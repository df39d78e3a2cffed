"""The command `ablate`: every cell of a study with every seed, a table of them, and its picture.

    python main.py ablate --config configs/ablate_fusion.py --workdir DIR

A recipe lists its cells as {label: changes to the config} in `config.study.compare`, their order in
`config.study.cells` (else by name), and in `config.study.name` which study it is. DIR then holds

    ablation_<study>.md, .csv, .json   a line for each cell: mean and standard deviation over seeds
    ablation_<study>_results.csv       a line for each run
    ablation_<study>.png               the picture
    report.html ...                    the page, see `vpjax.report.write`
    <label>/seed0 ...                  the runs

Finished runs are not run again. A run that fails is a line with its reason, and the others go on.
Standard deviations are the population's, as in `vpjax.studies.compare`. Columns are named as in the
published scripts; `val_acc` and `test_acc` are of the run's `metric`. Prompt parameters are counted
in the model. Runs of other studies in the same folder are not in the table.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpjax.core import escape, files
from vpjax.core.errors import UserError, unknown
from vpjax.core.table import mean_std, spread, table, write_csv
from vpjax.models.partition import ModelParts, partition
from vpjax.report.finish import write_report
from vpjax.report.plots.ablation import backbones, choices
from vpjax.report.plots.style import save
from vpjax.runs.experiment import abstract_model, open_split
from vpjax.studies import few_shot
from vpjax.studies.cells import cell_labels, cell_runs, try_to_train
from vpjax.studies.lines import RunLines, ending

log = logging.getLogger(__name__)

# study: the first columns of its file of runs, and the function that draws it
STUDIES: dict[str, tuple[tuple[str, ...], Callable]] = {
    "prompt_scale": (
        ("prompt_scales", "dataset", "model", "val_acc", "test_acc", "test_loss", "best_epoch")
        + ("fusion_type",),
        choices,
    ),
    "fusion": (
        ("fusion_type", "dataset", "model", "val_acc", "test_acc", "test_loss", "best_epoch"),
        choices,
    ),
    "backbone": (
        ("model", "dataset", "use_prompt", "val_acc", "test_acc", "test_loss", "best_epoch"),
        backbones,
    ),
    "mop": (("dataset", "val_acc", "test_acc", "test_loss", "best_epoch"), choices),
}
MODELS = {"cnn.CNN": "cnn", "small_vit.SmallViT": "vit"}
SETTINGS = ("dataset", "model", "use_prompt", "prompt_scales", "fusion_type")
COUNTS = ("prompt_parameters", "backbone_parameters", "prompt_percent")


def ablate(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
    """Train every cell with every seed; return and write a row for each cell.

    Raises:
        UserError: if the recipe names no study or has no seed; and, when all else is done and
            written, if a run failed.
    """
    study = config.study.name
    if study in few_shot.STUDIES:  # protocols of their own
        return few_shot.STUDIES[study](config, folder)
    if study not in STUDIES:
        known = {**STUDIES, **few_shot.STUDIES}
        raise unknown("config.study.name (recipes for `ablate` set it)", study, known)
    labels = cell_labels(config)
    if not config.study.seeds or not labels:
        raise UserError("a study needs cells (config.study.compare) and seeds (config.study.seeds)")
    folder.mkdir(parents=True, exist_ok=True)
    runs, cells = [], []
    seeds = config.study.seeds
    places = [(label, folder / label / f"seed{seed}") for label in labels for seed in seeds]
    what = f"{len(labels)} cells, {len(seeds)} seed{'s' * (len(seeds) > 1)} each"
    log.info("runs      %d: %s", len(places), what)
    lines = RunLines(places)
    for label in labels:
        found = train_cell(config, label, folder, lines)
        runs += found
        cells.append(summary(label, found))
        write(study, cells, runs, folder)  # a study that is stopped keeps what it has
    write_report(folder)
    log.info("\n%s\n", as_table(cells))
    for suffix, name in ((".md", "table    "), (".png", "picture  ")):
        if (path := folder / f"ablation_{study}{suffix}").exists():
            log.info("%s %s", name, path)
    if failed := [r for r in runs if r["status"] != "finished"]:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed; the rest is in {folder}. The first, "
            f"{failed[0]['cell']} with seed {failed[0]['seed']}: {failed[0]['reason']}"
        )
    return cells


def train_cell(
    config: ConfigDict, label: str, folder: Path, lines: RunLines
) -> list[dict[str, Any]]:
    """Train a cell with every seed, each a line on the screen; return a row for each run."""
    try:
        planned = cell_runs(config, label, folder)
        facts = settings(planned[0].config) | count_parameters(planned[0].config)
    except UserError as e:  # the cell does not fit the config
        return [row(label, seed, {}, e) for seed in config.study.seeds]
    rows = []
    for run in planned:
        with lines.one(f"{label}, seed {run.seed}") as say:
            result = try_to_train(run.config, run.folder)
            say(ending(result))
        rows.append(row(label, run.seed, facts, result))
    return rows


def settings(config: ConfigDict) -> dict[str, Any]:
    """Return the settings that runs of a study differ in, by the names of its columns."""
    name = config.backbone.name
    scales = config.method.get("prompt_scales", "")
    model = (
        f"resnet{config.backbone.variant}" if name == "resnet.ResNet" else MODELS.get(name, name)
    )
    fusion = config.method.get("fusion_type", "")
    return dict(zip(SETTINGS, (config.data.name, model, bool(scales), scales, fusion), strict=True))


def count_parameters(config: ConfigDict) -> dict[str, Any]:
    """Return the parameters of prompts, of all else (head included), and their ratio in percent."""
    classes = open_split(config, "train").num_classes
    parts = model_shapes(config, classes)
    prompts = sum(
        v.size
        for n, v in parts.trainable.items()
        if n.startswith("method/") and not n.startswith("method/head/")
    )
    rest = sum(v.size for part in (parts.trainable, parts.frozen) for v in part.values()) - prompts
    return dict(zip(COUNTS, (prompts, rest, 100 * prompts / rest), strict=True))


def model_shapes(config: ConfigDict, num_classes: int) -> ModelParts:
    """Return the parts of a model, arrays by their shapes only."""
    return partition(abstract_model(config, num_classes))


def row(
    label: str, seed: int, facts: dict[str, Any], outcome: dict[str, Any] | UserError
) -> dict[str, Any]:
    """Return a run's line: its settings and numbers, or why it failed."""
    out = {"cell": label, "seed": seed} | facts
    if isinstance(outcome, UserError):
        return out | {"status": "failed", "reason": " ".join(str(outcome).split())}
    best, metric = outcome.get("best_val_step"), outcome["metric"]
    return out | {
        "status": outcome["status"],
        "val_acc": outcome.get(f"best_val_{metric}"),
        "best_epoch": best and round(best / outcome["steps_per_epoch"], 2),
        "test_acc": outcome.get(f"test_{metric}"),
        "test_loss": outcome.get("test_loss"),
        "metric": metric,
        "seconds": outcome["seconds"],
    }


def summary(label: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a cell's line: means and standard deviations over the seeds that finished."""
    good = [r for r in runs if r["status"] == "finished"]
    out = {"cell": label} | {k: runs[0].get(k) for k in (*SETTINGS, *COUNTS)}
    for key in ("val_acc", "test_acc"):
        values = [r[key] for r in good if r[key] is not None]
        out[key] = float(np.mean(values)) if values else None
        out[f"{key}_std"] = spread(values)
    out["metric"] = good[0]["metric"] if good else None
    out["seconds"] = float(np.mean([r["seconds"] for r in good])) if good else None
    reasons = "; ".join(f"seed {r['seed']}: {r['reason']}" for r in runs if r not in good)
    return out | {"seeds": len(good), "failed": reasons}


def as_table(cells: Iterable[dict[str, Any]]) -> str:
    """Return the cells as text that is also Markdown, and below it what failed."""
    header = ["configuration", "validation (%)", "test (%)", "prompt parameters", "share"]
    header += ["seconds a run", "runs"]
    lines, failed = [], []
    for c in cells:
        prompts, share = c["prompt_parameters"], c["prompt_percent"]
        lines.append(
            [
                c["cell"],
                mean_std(c["val_acc"], c["val_acc_std"]),
                mean_std(c["test_acc"], c["test_acc_std"]),
                "-" if prompts is None else f"{prompts:,}",
                "-" if share is None else f"{share:.4f} %",
                "-" if c["seconds"] is None else f"{c['seconds']:.1f}",
                str(c["seeds"]) if not c["failed"] else f"{c['seeds']}, others failed",
            ]
        )
        failed += [f"\nFailed: {c['cell']}, {c['failed']}"] if c["failed"] else []
    return table(header, lines, "lrrrrrl") + "".join("\n" + text for text in failed)


def differences(cells: Sequence[dict[str, Any]]) -> str:
    """Return the test accuracy without and with prompts, by data set and model, as a table."""
    places = dict.fromkeys((c["dataset"], c["model"]) for c in cells if c["dataset"])
    lines = []
    for dataset, model in places:
        pair = [
            next((c for c in cells if _is(c, dataset, model, prompts)), None)
            for prompts in (False, True)
        ]
        texts = [mean_std(c["test_acc"], c["test_acc_std"]) if c else "-" for c in pair]
        both = all(c and c["test_acc"] is not None for c in pair)
        gain = f"{pair[1]['test_acc'] - pair[0]['test_acc']:+.2f}" if both else "-"
        lines.append([dataset, model, *texts, gain])
    header = ["data", "model", "baseline, test (%)", "with MS-VP, test (%)", "difference (points)"]
    return table(header, lines, "llrrr")


def _is(c: dict[str, Any], dataset: str, model: str, prompts: bool) -> bool:
    return (c["dataset"], c["model"], c["use_prompt"]) == (dataset, model, prompts)


def write(study: str, cells: list[dict], runs: list[dict], folder: Path) -> None:
    """Write the tables of a study and, if any run finished, its picture."""
    columns, draw = STUDIES[study]
    text = as_table(cells) + "\n"
    if study == "backbone":
        text += "\n" + differences(cells) + "\n"
    files.write_text(folder / f"ablation_{study}.md", escape.no_html(text))
    files.write_json(folder / f"ablation_{study}.json", cells)
    write_csv(folder / f"ablation_{study}.csv", cells)
    write_csv(folder / f"ablation_{study}_results.csv", runs, columns)
    if any(c["test_acc"] is not None or c["val_acc"] is not None for c in cells):
        save(draw(cells), folder / f"ablation_{study}.png", 200)
