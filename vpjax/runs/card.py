"""The card of a shared run: README.md with front matter, as the Hugging Face hub shows it.

Nothing is in it that the run has not recorded. Paths of this machine are left out.
"""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from vpjax.core import escape
from vpjax.core.table import table
from vpjax.weights import hub

FEW = 20  # classes that are listed
NAMES = {"accuracy": "accuracy", "map": "mean average precision"}
KINDS = {"map": "mAP"}  # metrics that the hub knows by another name
SPLITS = {"val": "validation", "test": "test"}


def card(facts: Mapping[str, Any], result: Mapping[str, Any] | None, title: str, own: str) -> str:
    """Return the card's text.

    Args:
        facts: metadata of model.safetensors, see `vpjax.runs.model_file`.
        result: of the run; None: not there.
        title: name of the run.
        own: what it will be loaded by: a name of the hub, or a folder.
    """
    result, config = result or {}, facts["config"]
    metrics = {**facts["metrics"], **result}
    base = base_of(facts)
    data = shown(config["data"]["name"])
    parts = [
        front_matter(facts, metrics, title, data),
        f"# {escape.markdown(title)}\n",
        f"{escape.no_html(facts['method'])} on {escape.no_html(facts['backbone'])}, an image "
        f"classifier of {len(facts['classes'])} classes, trained with vpjax "
        f"{escape.no_html(facts['vpjax'])}.",
        what(facts, metrics, base),
        f"## Data\n\n{data_text(config, result, data)}",
        f"Classes: {listed(facts['classes'])}.",
        f"## Results\n\n{results(metrics)}",
        f"## Licence\n\n{_sentence(facts['licence'])}. The frozen ones are "
        "not here; what was trained of the backbone is derived from them.",
        f"## Use\n\n```sh\npip install vpjax\n```\n\n```python\nimport vpjax\n\n"
        f"run = vpjax.load_run({own!r})\nprint(run.predict('photos/'))\n```\n\n"
        f"The base weights, {escape.no_html(base) or 'random ones'}, are fetched or must be "
        "there; `load_run(..., weights=PATH)` says where. In other programs: `model.safetensors` "
        "holds the arrays by name, and everything above as its metadata.",
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def base_of(facts: Mapping[str, Any]) -> str:
    """Return what a run's base weights are called elsewhere: a name, or of a path the file's."""
    where = facts["weights"]
    return hub.name_of(where) or (PurePath(where).name if "/" in where else where)


def shown(name: str) -> str:
    """Return the name of a data set without the path of this machine: "folder:birds"."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{PurePath(place).name}" if colon else PurePath(name).name


def front_matter(
    facts: Mapping[str, Any], metrics: Mapping[str, Any], title: str, data: str
) -> str:
    """Return the YAML between two lines of "---"; strings are JSON's, which YAML reads."""
    text = json.dumps
    lines = ["---", "library_name: vpjax", "pipeline_tag: image-classification"]
    lines += ["tags:", *(f"- {tag}" for tag in ("image-classification", "visual-prompt-tuning"))]
    if name := hub.name_of(facts["weights"]):
        lines.append(f"base_model: {text(name.partition('@')[0])}")
    metric = metrics.get("metric", "accuracy")
    found = {s: metrics[f"{s}_{metric}"] for s in SPLITS if f"{s}_{metric}" in metrics}
    if found:
        lines += ["model-index:", f"- name: {text(title)}", "  results:"]
    for split, value in found.items():
        lines += ["  - task:", "      type: image-classification", "    dataset:"]
        lines += [f"      name: {text(data)}", f"      type: {text(data)}", f"      split: {split}"]
        lines += ["    metrics:", f"    - type: {KINDS.get(metric, metric)}"]
        lines.append(f"      value: {value:.2f}")
    return "\n".join([*lines, "---"])


def what(facts: Mapping[str, Any], metrics: Mapping[str, Any], base: str) -> str:
    """Return the table of what it is."""
    options = {k: v for k, v in facts["method_options"].items() if v not in (None, "")}
    size = " x ".join(map(str, facts["image_size"]))
    rows = [["method", f"{facts['method']}: {', '.join(f'{k}={v}' for k, v in options.items())}"]]
    rows.append(["backbone", facts["backbone"]])
    rows.append(["base weights", base or "none: random numbers from a seed"])
    if facts["weights_sha256"]:
        rows.append(["sha256 of them", facts["weights_sha256"]])
    rows.append(["images", f"{size} pixels, preset {facts['preset']}"])
    if "trainable" in metrics:
        rows.append(
            ["trainable", f"{metrics['trainable']:,} parameters, {metrics['percent']:.2f} % of all"]
        )
    return table(["what", ""], [[name, escape.no_html(text)] for name, text in rows])


def data_text(config: Mapping[str, Any], result: Mapping[str, Any], name: str) -> str:
    """Return the table of the splits."""
    counts = result.get("data", {})
    rows = [
        [split, escape.no_html(str(config["data"][split])), _count(counts, split)]
        for split in ("train", "val", "test")
        if config["data"].get(split)
    ]
    return f"{escape.markdown(name)}\n\n{table(['split', 'what', 'images'], rows, 'llr')}"


def _sentence(text: str) -> str:
    return escape.no_html(text[:1].upper() + text[1:])


def _count(counts: Mapping[str, Any], split: str) -> str:
    return f"{counts[split]['images']:,}" if split in counts else ""


def listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(map(escape.markdown, names[:FEW])) + more


def results(metrics: Mapping[str, Any]) -> str:
    """Return the table of the metrics of val and test."""
    metric = metrics.get("metric", "accuracy")
    rows = []
    for split, name in SPLITS.items():
        if (value := metrics.get(f"{split}_{metric}")) is not None:
            count = metrics.get(f"{split}_count", "")
            rows.append([name, f"{NAMES.get(metric, metric)} {value:.2f} %", f"{count}"])
    return table(["split", "metric", "images"], rows, "llr") if rows else "None recorded."
