"""Studies: every cell of a grid with every seed, a table of what came out, and its picture.

    python main.py --mode ablate --config configs/ablate_fusion.py --workdir DIR

A recipe lists its cells as {label: changes to the config} in `config.study.compare`, their order in
`config.study.cells` (else by name), and in `config.study.name` which study it is. DIR then holds

    ablation_<study>.md, .csv, .json   a line a cell: mean and standard deviation over seeds
    ablation_<study>_results.csv       a line a run
    ablation_<study>.png               the picture
    <label>/seed0 ...                  the runs

What is finished is not run again. A run that fails is written down with its reason, and the others
go on. Standard deviations are the population's, as in `vpjax.studies.compare`. Prompt parameters are counted
in the model itself. Only the study's own cells enter its table.
"""

import csv
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import write_json
from vpjax.core.table import table
from vpjax.data import open_source
from vpjax.models import factory
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.report.plots.ablation import backbones, choices
from vpjax.runs.fit import fit
from vpjax.studies import compare

log = logging.getLogger(__name__)

# study: the first columns of its file of runs, and who draws it
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
CHOSEN = ("dataset", "model", "use_prompt", "prompt_scales", "fusion_type")
COUNTED = ("prompt_parameters", "backbone_parameters", "prompt_percent")


def ablate(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
    """Trains every cell with every seed; returns and writes a row a cell.

    Raises: UserError if the recipe is no study or has no seed; and, when all else is done and
    written, if a run failed.
    """
    study = config.study.name
    if study not in STUDIES:
        raise unknown("config.study.name (a recipe for --mode ablate sets it)", study, STUDIES)
    labels = compare.labels(config)
    if not config.study.seeds or not labels:
        raise UserError("a study needs cells (config.study.compare) and seeds (config.study.seeds)")
    folder.mkdir(parents=True, exist_ok=True)
    runs, cells = [], []
    for number, label in enumerate(labels, start=1):
        log.info("\n%s (cell %d of %d)", label, number, len(labels))
        found = cell(config, label, folder)
        runs += found
        cells.append(summary(label, found))
        write(study, cells, runs, folder)  # so that a study that is stopped shows what it has
    log.info("\n%s\n", as_table(cells))
    for suffix in (".md", ".png"):
        if (path := folder / f"ablation_{study}{suffix}").exists():
            log.info("%s %s", "table    " if suffix == ".md" else "picture  ", path)
    if failed := [r for r in runs if r["status"] != "finished"]:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed; the rest is in {folder}. The first, "
            f"{failed[0]['cell']} with seed {failed[0]['seed']}: {failed[0]['reason']}"
        )
    return cells


def cell(config: ConfigDict, label: str, folder: Path) -> list[dict[str, Any]]:
    """Trains a cell with every seed; returns a row a run."""
    config = config.copy_and_resolve_references()
    config.study.cells = (label,)
    try:
        singles = [(c, folder / label / f"seed{seed}") for _, seed, c in compare.runs(config)]
        facts = chosen(singles[0][0]) | counts(singles[0][0])
    except UserError as e:  # the cell itself cannot be
        return [row(label, seed, {}, e) for seed in config.study.seeds]
    outcomes = [attempt(lambda c=c, place=place: fit(c, place)) for c, place in singles]
    return [row(label, c.seed, facts, o) for (c, _), o in zip(singles, outcomes, strict=True)]


def attempt(call: Callable) -> Any:
    """Returns what `call` returns, or the error a user or the device has caused."""
    try:
        return call()
    except UserError as e:
        log.warning("failed    %s", e)
        return e
    except jax.errors.JaxRuntimeError as e:  # out of memory, most of the time
        log.warning("failed    %s", e)
        return UserError(f"the device failed: {(str(e).splitlines() or ['?'])[0]}")


def chosen(config: ConfigDict) -> dict[str, Any]:
    """Returns what distinguishes runs of a study, in the words of its columns."""
    name = config.backbone.name
    scales = config.method.get("prompt_scales", "")
    model = (
        f"resnet{config.backbone.variant}" if name == "resnet.ResNet" else MODELS.get(name, name)
    )
    fusion = config.method.get("fusion_type", "")
    return dict(zip(CHOSEN, (config.data.name, model, bool(scales), scales, fusion), strict=True))


def counts(config: ConfigDict) -> dict[str, Any]:
    """Returns how many parameters prompts add, to how many: all but prompts, the head included."""
    data = config.data
    classes = open_source(data.name, data.train, data.dir or None, data.classes).num_classes

    def make():
        backbone = factory.make_backbone(config, "xla", jax.random.key(0))
        decided = factory.run_wide(
            "methods", config.method.name, match_reference_code=config.match_reference_code
        )
        more = decided | {"rngs": nnx.Rngs(0)}
        method = registry.construct("methods", config.method, backbone, classes, **more)
        return Model(backbone, method)

    parts = partition(nnx.eval_shape(make))
    prompts = sum(
        v.size
        for n, v in parts.trainable.items()
        if n.startswith("method/") and not n.startswith("method/head/")
    )
    rest = sum(v.size for part in (parts.trainable, parts.frozen) for v in part.values()) - prompts
    return dict(zip(COUNTED, (prompts, rest, 100 * prompts / rest), strict=True))


def row(label: str, seed: int, facts: dict[str, Any], outcome: Any) -> dict[str, Any]:
    """Returns a run's line: its choices and numbers, or why it failed."""
    out = {"cell": label, "seed": seed} | facts
    if isinstance(outcome, UserError):
        return out | {"status": "failed", "reason": " ".join(str(outcome).split())}
    best = outcome.get("best_val_step")
    return out | {
        "status": outcome["status"],
        "val_acc": outcome.get("best_val_accuracy"),
        "best_epoch": best and round(best / outcome["steps_per_epoch"], 2),
        "test_acc": outcome.get("test_accuracy"),
        "test_loss": outcome.get("test_loss"),
        "seconds": outcome["seconds"],
    }


def summary(label: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns a cell's line: means and standard deviations over the seeds that finished."""
    good = [r for r in runs if r["status"] == "finished"]
    out = {"cell": label} | {k: runs[0].get(k) for k in (*CHOSEN, *COUNTED)}
    for key in ("val_acc", "test_acc"):
        values = [r[key] for r in good if r[key] is not None]
        out[key] = float(np.mean(values)) if values else None
        out[f"{key}_std"] = float(np.std(values)) if values else None
    seconds = float(np.mean([r["seconds"] for r in good])) if good else None
    reasons = "; ".join(f"seed {r['seed']}: {r['reason']}" for r in runs if r not in good)
    return out | {"seconds": seconds, "seeds": len(good), "failed": reasons}


def as_table(cells: Iterable[dict[str, Any]]) -> str:
    """Returns the cells as text that is also Markdown, and what failed below it."""
    header = ["configuration", "validation (%)", "test (%)", "prompt parameters", "share"]
    header += ["seconds a run", "runs"]
    lines, failed = [], []
    for c in cells:
        prompts, share = c["prompt_parameters"], c["prompt_percent"]
        lines.append(
            [
                c["cell"],
                spread(c, "val_acc"),
                spread(c, "test_acc"),
                "-" if prompts is None else f"{prompts:,}",
                "-" if share is None else f"{share:.4f} %",
                "-" if c["seconds"] is None else f"{c['seconds']:.1f}",
                str(c["seeds"]) if not c["failed"] else f"{c['seeds']}, others failed",
            ]
        )
        failed += [f"\nFailed: {c['cell']}, {c['failed']}"] if c["failed"] else []
    return table(header, lines, "lrrrrrl") + "".join("\n" + text for text in failed)


def differences(cells: Sequence[dict[str, Any]]) -> str:
    """Returns test accuracy without and with prompts, by data set and model, as a table."""
    places = dict.fromkeys((c["dataset"], c["model"]) for c in cells if c["dataset"])
    lines = []
    for dataset, model in places:
        pair = [
            next((c for c in cells if _is(c, dataset, model, prompts)), None)
            for prompts in (False, True)
        ]
        texts = [spread(c, "test_acc") if c else "-" for c in pair]
        both = all(c and c["test_acc"] is not None for c in pair)
        gain = f"{pair[1]['test_acc'] - pair[0]['test_acc']:+.2f}" if both else "-"
        lines.append([dataset, model, *texts, gain])
    header = ["data", "model", "baseline, test (%)", "with MS-VP, test (%)", "difference (points)"]
    return table(header, lines, "llrrr")


def _is(c: dict[str, Any], dataset: str, model: str, prompts: bool) -> bool:
    return (c["dataset"], c["model"], c["use_prompt"]) == (dataset, model, prompts)


def spread(c: dict[str, Any], key: str) -> str:
    """Returns "91.23 ± 0.45"; "-" where nothing was measured."""
    return "-" if c[key] is None else f"{c[key]:.2f} ± {c[f'{key}_std']:.2f}"


def write(study: str, cells: list[dict], runs: list[dict], folder: Path) -> None:
    """Writes the tables of a study and, where anything finished, its picture."""
    columns, draw = STUDIES[study]
    text = as_table(cells) + "\n"
    if study == "backbone":
        text += "\n" + differences(cells) + "\n"
    (folder / f"ablation_{study}.md").write_text(text)
    write_json(folder / f"ablation_{study}.json", cells)
    write_csv(folder / f"ablation_{study}.csv", cells)
    write_csv(folder / f"ablation_{study}_results.csv", runs, columns)
    if any(c["test_acc"] is not None or c["val_acc"] is not None for c in cells):
        draw(cells).savefig(folder / f"ablation_{study}.png", dpi=200, bbox_inches="tight")


def write_csv(path: Path, rows: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> None:
    """Writes rows as CSV, the columns `first` in front; what a row lacks stays empty."""
    columns = dict.fromkeys([*first, *(key for r in rows for key in r)])
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
