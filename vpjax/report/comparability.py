"""What runs must share to be in one column of a table.

    protocol   the splits trained on and reported, and which checkpoint is reported
    data       the data set's version and digest
    preset     preprocessing, and the size in pixels
    weights    the backbone, and the digest of the file it was loaded from

A column is a data set: all four must agree. The means of a benchmark run over columns: there,
preset, weights, protocol, and where images come from must agree as far as data sets allow it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vpjax.core.errors import UserError
from vpjax.data.benchmarks import BENCHMARKS, DataSet, columns, known_name
from vpjax.report.run_folders import Run

KINDS = ("protocol", "data", "preset", "weights")
# Ways to open a data set as its authors published it; others are copies, or have other splits.
RELEASED = ("tfds", "json", "nabirds", "cub", "gtsrb")


class Column(NamedTuple):
    """A data set of a table.

    Attributes:
        suite: the benchmark; "" for a data set that belongs to none.
        group: the group of data sets that the benchmark takes a mean of; "" if it has no groups.
        metric: what the benchmark reports; "": the primary metric of the run.
    """

    suite: str
    name: str
    group: str = ""
    metric: str = ""


def assign_columns(runs: Sequence[Run]) -> list[Column]:
    """Return each run's column.

    A data set may be in several benchmarks: it counts for the one whose splits it uses, and then
    for the one that the runs fill best.
    """
    open_ = {i: candidates(run) for i, run in enumerate(runs)}
    out = [Column("", known_name(run.config.data.name)) for run in runs]
    open_ = {i: sets for i, sets in open_.items() if sets}
    while open_:
        covered = defaultdict(set)
        for sets in open_.values():
            for data in sets:
                covered[data.benchmark].add(data.name)
        best = max(covered, key=lambda s: (len(covered[s]), len(covered[s]) / len(BENCHMARKS[s])))
        for i, sets in list(open_.items()):
            for data in sets:
                if data.benchmark == best:
                    out[i] = Column(best, data.name, data.group, data.metric)
                    open_.pop(i, None)
    return out


def candidates(run: Run) -> list[DataSet]:
    """Return the benchmark data sets that a run may be of; those with its splits if any."""
    name, train = known_name(run.config.data.name), run.config.data.get("train", "")
    sets = columns(name)
    same = [
        s for s in sets if any(o.name == name and train in (o.train, o.both) for o in s.openings)
    ]
    return same or sets


def column_facts(run: Run) -> dict[str, str]:
    """Return what must agree within a column, by kind."""
    data, shared = run.result["data"], benchmark_facts(run)
    reported = data[run.split]
    source = f"{_set(data['train']['name'])}, digest {run.result['data_fingerprint'][:12]}, "
    source += f"{run.split} {reported['images']:,} images"
    splits = f"trained on {_split(data['train']['name'])}, reported on {_split(reported['name'])}"
    return {
        "protocol": f"{splits}, {checkpoint(run)}",
        "data": source,
        "preset": shared["preset"],
        "weights": shared["weights"],
    }


def benchmark_facts(run: Run) -> dict[str, str]:
    """Return what must agree between the columns of a mean, by kind."""
    weights, config = run.result["weights"], run.config
    sha = weights.get("sha256")
    origin = f"{weights.get('where')}, sha256 {sha[:16]}" if sha else "random"
    height, width = run.result["image_size"]
    size = height if height == width else f"{height} x {width}"
    name = known_name(config.data.name)
    opening = next((o for s in columns(name) for o in s.openings if o.name == name), None)
    kind = opening.kind if opening else name.partition(":")[0] if ":" in name else "tfds"
    part = config.data.get("train", "")
    if opening is not None:  # one wording for splits that are named differently from set to set
        part = {opening.both: "train and val", opening.train: "train"}.get(part, part)
    return {
        "protocol": f"trained on {part}, reported on {run.split}, {checkpoint(run)}",
        "data": "original release" if kind in RELEASED else kind,
        "preset": f"{run.result['preset']} at {size} pixels",
        "weights": f"{config.backbone.get('name', '?')}, {origin}",
    }


def checkpoint(run: Run) -> str:
    """Return which checkpoint a run reports, in words."""
    train = run.config.train
    text = "best" if train.get("select", "last") == "best" else "last"
    return f"{text} checkpoint" + (", stopped early" if train.get("patience", 0) else "")


def selected_on_reported_split(run: Run) -> bool:
    """Return whether a run chose its checkpoint on the images it reports, and looks too good."""
    data = run.result["data"]
    same = run.split == "val" or data.get("val", {}).get("name") == data[run.split]["name"]
    return same and checkpoint(run) != "last checkpoint"


def check_comparable(pairs: Iterable[tuple[Run, Mapping[str, str]]], where: str) -> None:
    """Check that the facts of runs agree.

    Raises:
        UserError: naming the first two runs that differ, and how to separate them.
    """
    first = None
    for run, found in pairs:
        first = first or (run, found)
        differing = [kind for kind in KINDS if found[kind] != first[1][kind]]
        if not differing:
            continue
        other, theirs = first
        lines = "".join(f"\n  {k}: {theirs[k]!r} and {found[k]!r}" for k in differing)
        mine, yours = benchmark_facts(run), benchmark_facts(other)
        parts = [kind for kind in differing if mine[kind] != yours[kind]]
        way = f"--group_by={parts[0]} makes a table of each; or leave" if parts else "Leave"
        raise UserError(
            f"{other.name} and {run.name} are both {where}, but differ:{lines}\nNumbers of "
            f"different sources cannot be compared. {way} one of them out: name the folders to "
            "read with --runs=DIR,DIR."
        )


def _set(name: str) -> str:
    """ "svhn_cropped:3.1.0[train[:800]]" without the split."""
    return name.partition("[")[0]


def _split(name: str) -> str:
    return name.partition("[")[2].removesuffix("]") or name
