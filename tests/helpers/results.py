"""Run folders as a finished training leaves them, without training."""

from pathlib import Path

from ml_collections import ConfigDict

from vpjax.core.files import write_json
from vpjax.data import benchmarks
from vpjax.report.run_folders import find
from vpjax.report.tables import Table, tables
from vpjax.runs import config as configs
from vpjax.runs import defaults
from vpjax.runs.history import Metrics

SHA = "d92437448e3f9d731ee315dd99226b2a07aef6a711340d2422d6ee0005c5c4b5"
# VPT-deep on VTAB-1k, arXiv 2203.12119, table 1: groups 78.48, 82.43, 54.98.
_NATURAL, _SPECIALISED = (78.8, 90.8, 65.8, 98.0, 88.3, 78.1, 49.6), (81.8, 96.1, 83.4, 68.4)
_STRUCTURED = (68.5, 60.0, 46.5, 72.8, 73.6, 47.9, 32.9, 37.8)
PAPER = dict(zip(benchmarks.BENCHMARKS["vtab"], _NATURAL + _SPECIALISED + _STRUCTURED, strict=True))
VERSIONS = {"python": "3.11.7", "jax": "0.10.2"}


def config_of(suite: str, name: str, seed: int = 0, **sections: dict) -> ConfigDict:
    """The config of a final run: trained on train and val, tested."""
    config = defaults.get_config()
    opening = benchmarks.find(suite, name).openings[0]
    config.data.update(name=opening.name, train=opening.both, val="", test=opening.test)
    config.data.preset = "vpt_vtab"
    config.seed = seed
    for section, values in sections.items():
        if section == "expected":
            config.study.expected = ConfigDict(values)
        elif section == "label":
            config.study.label = values
        elif isinstance(values, dict):
            config[section].update(values)
        else:
            config[section] = values
    return config


def write(folder: Path, config: ConfigDict, accuracy: float, **changes) -> Path:
    """Writes a finished run; `changes` are of its result, None takes a key out."""
    start(folder, config)
    data = {"name": f"{config.data.name}:1.0.0[{config.data.test or config.data.val}]"}
    split = "test" if config.data.test else "val"
    result = {"status": "finished", "step": 20}
    result |= {f"{split}_accuracy": accuracy, f"{split}_loss": 0.5, f"{split}_count": 500}
    result |= {
        "method": config.method.name,
        "metric": "accuracy",
        "trainable": 1000,
        "total": 100_000,
        "percent": 1.0,
        "weights": {"where": config.backbone.weights, "sha256": SHA, "resized": ""},
        "data": {
            "train": {"name": f"{config.data.name}:1.0.0[{config.data.train}]", "images": 1000},
            split: data | {"images": 500},
        },
        "data_fingerprint": "ab" * 32,
        "preset": config.data.preset,
        "image_size": [224, 224],
        "seed": config.seed,
        "devices": ["cpu"],
        "versions": VERSIONS,
        "seconds": 3.5,
    }
    result = {k: v for k, v in (result | changes).items() if v is not None}
    write_json(folder / "result.json", result)
    return folder


def start(folder: Path, config: ConfigDict) -> Path:
    """Writes what a run leaves that was killed."""
    folder.mkdir(parents=True)
    configs.save(config, folder / "config.json")
    with Metrics(folder) as metrics:
        for step in (10, 20):
            values = {"loss": 2.0 / step, "accuracy": 50.0 + step, "lr": 0.1}
            metrics.write(step, values)
    times = ("2026-03-01 10:00:00 data", "2026-03-02 11:30:00 step 20, test accuracy")
    (folder / "log.txt").write_text("\n".join(times) + "\n")
    return folder


def vtab(top: Path, label: str, level: float, seeds=(0, 1, 2), tasks=None, **more) -> None:
    """Writes a method on tasks of VTAB-1k, in <top>/<task>/<label>/seed<n>."""
    for i, task in enumerate(tasks or benchmarks.BENCHMARKS["vtab"]):
        for seed in seeds:
            expected = {"value": level + i, "tolerance": 1.0, "source": "Table 1 of <Paper> & co"}
            config = config_of("vtab", task, seed, expected=expected)
            changes = {k: v for k, v in more.items() if not callable(v)}
            changes |= {k: v(task, seed) for k, v in more.items() if callable(v)}
            write(top / task / label / f"seed{seed}", config, level + i + 0.5 * seed, **changes)


def paper(top: Path) -> Path:
    """Writes two methods on all of VTAB-1k, one with the published numbers as its means."""
    off = {0: -0.5, 1: 0.0, 2: 0.5}
    vtab(top, "vpt_deep", 60.0, test_accuracy=lambda task, seed: PAPER[task] + off[seed])
    vtab(top, "bias_&_100%", 50.0, trainable=99, percent=0.5)
    return top


def tables_of(top: Path, group_by=()) -> list[Table]:
    """Reads the runs below a folder."""
    return tables(find([top], top), group_by)
