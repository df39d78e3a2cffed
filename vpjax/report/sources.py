"""What numbers must share to stand in one column.

    protocol   which images were trained on, which told, and by which checkpoint
    data       the data set's version and digest
    preset     preprocessing, and the size in pixels
    weights    the backbone, and the digest of what it was loaded from

A column is a data set: all four must agree. The means of a benchmark run over columns: there,
preset, weights, protocol, and where images come from must agree as far as data sets allow it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vpjax.core.errors import UserError
from vpjax.data.benchmarks import BENCHMARKS, DataSet, columns, known_name
from vpjax.report.runs import Run

KINDS = ("protocol", "data", "preset", "weights")
# Ways to open a data set as its authors give it away; others are copies, or have other splits.
RELEASED = ("tfds", "json", "nabirds", "cub", "gtsrb")


class Column(NamedTuple):
    """A data set of a table; `suite` is "" for one that belongs to no benchmark."""

    suite: str
    name: str
    group: str = ""
    metric: str = "accuracy"


def assign(runs: Sequence[Run]) -> list[Column]:
    """Returns each run's column.

    A data set may be in several benchmarks: it counts for the one whose splits it uses, and then
    for the one that the runs fill best.
    """
    open_ = {i: fitting(run) for i, run in enumerate(runs)}
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


def fitting(run: Run) -> list[DataSet]:
    """Returns the benchmarks' data sets that a run may be of, those with its splits if any."""
    name, train = known_name(run.config.data.name), run.config.data.get("train", "")
    sets = columns(name)
    same = [
        s for s in sets if any(o.name == name and train in (o.train, o.both) for o in s.openings)
    ]
    return same or sets


def facts(run: Run) -> dict[str, str]:
    """Returns what must agree within a column, by kind."""
    data, shared = run.result["data"], common(run)
    told = data[run.split]
    source = f"{_set(data['train']['name'])}, digest {run.result['data_fingerprint'][:12]}, "
    source += f"{run.split} {told['images']:,} images"
    splits = f"trained on {_split(data['train']['name'])}, told on {_split(told['name'])}"
    return {
        "protocol": f"{splits}, {chosen(run)}",
        "data": source,
        "preset": shared["preset"],
        "weights": shared["weights"],
    }


def common(run: Run) -> dict[str, str]:
    """Returns what must agree between columns that a mean runs over, by kind."""
    weights, config = run.result["weights"], run.config
    sha = weights.get("sha256")
    origin = f"{weights.get('where')}, sha256 {sha[:16]}" if sha else "drawn from the seed"
    size = config.backbone.get("image_size", None)
    size = " x ".join(map(str, size)) if isinstance(size, tuple) else size
    name = known_name(config.data.name)
    opening = next((o for s in columns(name) for o in s.openings if o.name == name), None)
    kind = opening.kind if opening else name.partition(":")[0] if ":" in name else "tfds"
    part = config.data.get("train", "")
    if opening is not None:  # the same words for what is called differently from set to set
        part = {opening.both: "train and val", opening.train: "train"}.get(part, part)
    return {
        "protocol": f"trained on {part}, told on {run.split}, {chosen(run)}",
        "data": "original release" if kind in RELEASED else kind,
        "preset": run.result["preset"] + (f" at {size} pixels" if size else ""),
        "weights": f"{config.backbone.get('name', '?')}, {origin}",
    }


def chosen(run: Run) -> str:
    """Says which checkpoint a run tells about."""
    train = run.config.train
    text = "best" if train.get("select", "last") == "best" else "last"
    return f"{text} checkpoint" + (", stopped early" if train.get("patience", 0) else "")


def peeks(run: Run) -> bool:
    """Returns whether a run chose its checkpoint on the images it tells about."""
    data = run.result["data"]
    same = run.split == "val" or data.get("val", {}).get("name") == data[run.split]["name"]
    return same and chosen(run) != "last checkpoint"


def check(pairs: Iterable[tuple[Run, Mapping[str, str]]], where: str) -> None:
    """Checks that facts agree.

    Raises: UserError naming the first two runs that differ, and how to tell them apart.
    """
    first = None
    for run, found in pairs:
        first = first or (run, found)
        differing = [kind for kind in KINDS if found[kind] != first[1][kind]]
        if not differing:
            continue
        other, theirs = first
        lines = "".join(f"\n  {k}: {theirs[k]!r} and {found[k]!r}" for k in differing)
        mine, yours = common(run), common(other)
        parts = [kind for kind in differing if mine[kind] != yours[kind]]
        way = f"--by={parts[0]} makes a table of each; or leave" if parts else "Leave"
        raise UserError(
            f"{other.name} and {run.name} are both {where}, but differ:{lines}\nNumbers of "
            f"different sources do not compare. {way} one of them out: name the folders to read "
            "with --runs=DIR,DIR."
        )


def _set(name: str) -> str:
    """ "svhn_cropped:3.1.0[train[:800]]" without the split."""
    return name.partition("[")[0]


def _split(name: str) -> str:
    return name.partition("[")[2].removesuffix("]") or name
