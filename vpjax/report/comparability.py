"""What runs must share to be in one column of a table.

    protocol   the splits trained on and reported, and which checkpoint is reported
    data       the data set's version and digest
    preset     preprocessing, and the size in pixels
    weights    the backbone, and the digest of the file it was loaded from

A column is a data set: all four must agree. The means of a benchmark run over columns: there,
preset, weights, protocol, and where images come from must agree as far as data sets allow it. Runs
that do not agree are tables of their own.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

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


Pair = tuple[Run, Column]


class Group(NamedTuple):
    """Runs that can share a table.

    Attributes:
        kinds: in what they differ from other groups.
        values: the facts of these kinds, that all runs of the group share.
        notice: what a reader must know of the other groups; "" if there is none.
    """

    pairs: Sequence[Pair]
    kinds: tuple[str, ...]
    values: tuple[str, ...]
    notice: str = ""


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
        "weights": f"{config.get('backbone', {}).get('name', '?')}, {origin}",
    }


def checkpoint(run: Run) -> str:
    """Return which checkpoint a run reports, in words."""
    train = run.config.get("train", {})
    text = "best" if train.get("select", "last") == "best" else "last"
    return f"{text} checkpoint" + (", stopped early" if train.get("patience", 0) else "")


def selected_on_reported_split(run: Run) -> bool:
    """Return whether a run chose its checkpoint on the images it reports, and looks too good."""
    data = run.result["data"]
    same = run.split == "val" or data.get("val", {}).get("name") == data[run.split]["name"]
    return same and checkpoint(run) != "last checkpoint"


def separated(pairs: Sequence[Pair], averaged: bool) -> list[Group]:
    """Return groups of runs that can share a table, the largest first.

    Args:
        pairs: runs of one benchmark, and their columns.
        averaged: whether a mean joins the columns.
    """
    shared = {run: benchmark_facts(run) for run, _ in pairs}
    columns = {name: [r for r, c in pairs if c.name == name] for name in {c.name for _, c in pairs}}
    joined = [list(shared)] if averaged else list(columns.values())
    kinds = [k for k in KINDS if any(len({shared[r][k] for r in rs}) > 1 for rs in joined)]
    parts: dict[tuple[str, ...], list[Pair]] = {}
    for run, column in pairs:
        parts.setdefault(tuple(shared[run][kind] for kind in kinds), []).append((run, column))
    out = []
    for values, found in parts.items():
        out += _by_data(found, [*kinds], [*values])
    out.sort(key=lambda group: -len(group.pairs))
    if len(out) == 1:
        return out
    return [group._replace(notice=_notice(group, len(out))) for group in out]


def _by_data(pairs: Sequence[Pair], kinds: list[str], values: list[str]) -> list[Group]:
    """Separate runs whose columns are of different sources, as of two versions of a data set."""
    own = {run: column_facts(run) for run, _ in pairs}
    first, rest = [], {}
    for name in dict.fromkeys(column.name for _, column in pairs):
        here = [(run, column) for run, column in pairs if column.name == name]
        by_facts: dict[tuple[str, ...], list[Pair]] = {}
        for run, column in here:
            by_facts.setdefault(tuple(own[run][k] for k in KINDS), []).append((run, column))
        ordered = sorted(by_facts.items(), key=lambda item: -len(item[1]))
        differing = [k for i, k in enumerate(KINDS) if len({f[i] for f in by_facts}) > 1]
        first += ordered[0][1]
        for facts, found in ordered[1:]:
            said = tuple(facts[KINDS.index(kind)] for kind in differing)
            rest.setdefault((tuple(differing), said), []).extend(found)
    groups = [Group(first, tuple(kinds), tuple(values))]
    for (differing, said), found in rest.items():
        groups.append(Group(found, (*kinds, *differing), (*values, *said)))
    return groups


def _notice(group: Group, count: int) -> str:
    names = [run.name for run, _ in group.pairs]
    few = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    facts = "; ".join(f"{k}: {v}" for k, v in zip(group.kinds, group.values, strict=True))
    source = f" ({facts})" if facts else ""
    return (
        f"Numbers of different sources cannot be compared, so these runs are {count} tables. This "
        f"one{source} holds {few}."
    )


def _set(name: str) -> str:
    """ "svhn_cropped:3.1.0[train[:800]]" without the split."""
    return name.partition("[")[0]


def _split(name: str) -> str:
    return name.partition("[")[2].removesuffix("]") or name
