"""What the library set out to reach, and whether the figures say it did.

Bounds were set before anything was measured. A figure that is missing makes a goal "not measured",
never met.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.tasks import TASKS
from vpjax.core.table import table

Results = Mapping[str, Mapping[str, Any]]  # records by part, see `benchmarks.all`
Row = Mapping[str, Any]
HEADER = ("goal", "asked", "found", "verdict")
MEGABYTE = 1e6
KINDS = ("eager", "compiled")  # the best of PyTorch is known when both have run


class Found(NamedTuple):
    """A figure, and what to know about it."""

    value: float
    note: str = ""
    whole: bool = True  # False: something is missing that could be worse


class Goal(NamedTuple):
    """A bound on one figure."""

    name: str
    device: str  # "cpu", "gpu", or what the device's name must hold
    bound: float
    find: Callable[[Results], Found | None]  # None: not measured
    least: bool = True  # the figure must be at least the bound; False: at most
    form: str = "{:.2f}"

    def verdict(self, results: Results) -> tuple[str, Found | None]:
        """Return "met", "missed" or "not measured", and the figure."""
        found = self.find(results)
        if found is None:
            return "not measured", None
        met = found.value >= self.bound if self.least else found.value <= self.bound
        return ("missed" if not met else "met" if found.whole else "not measured"), found


def rows(results: Results, **same: Any) -> list[Row]:
    """Return the rows of races whose fields are `same` and that were measured."""
    found = [row for record in results.values() for row in record.get("rows", ())]
    return [
        row
        for row in found
        if "ours_over_this" in row and all(row.get(k) == v for k, v in same.items())
    ]


def ours(results: Results, remat: bool = False, **same: Any) -> Row | None:
    """Return our row of a race."""
    found = [row for row in rows(results, **same) if row["who"].startswith("ours")]
    return next((row for row in found if ("remat" in row["who"]) == remat), None)


def against(task: str, step: str, dtype: str, *who: str) -> Callable[[Results], Found | None]:
    """Finds our speed over the fastest of the peers named (or of all), turn by turn."""

    def find(results: Results) -> Found | None:
        peers = [r for r in rows(results, task=task, step=step, dtype=dtype) if peer(r, who)]
        if not peers:
            return None
        best = min(peers, key=lambda r: r["ours_over_this_pairs"])
        low, high = best["ours_over_this_spread"]
        note = f"{best['who']}, {low:.2f} to {high:.2f}"
        return Found(best["ours_over_this_pairs"], note, len(peers) == len(who or KINDS))

    return find


def peer(row: Row, who: Sequence[str]) -> bool:
    """Whether a row is of a peer, one of `who` if given."""
    return row["who"] in who if who else not row["who"].startswith("ours")


def worst(step: str, others: Iterable[str]) -> Callable[[Results], Found | None]:
    """Finds the lowest of `against` over tasks, in float32."""
    names = list(others)

    def find(results: Results) -> Found | None:
        every = {name: against(name, step, "float32")(results) for name in names}
        found = {name: figure for name, figure in every.items() if figure}
        if not found:
            return None
        lowest = min(found, key=lambda name: found[name].value)
        below = [n for n, f in found.items() if f.value < 1]
        note = f"{lowest}; {found[lowest].note}"
        note += f"; below 1: {', '.join(below)}" if len(below) > 1 else ""
        missing = [n for n, f in every.items() if f is None]
        note += f"; not measured: {', '.join(missing)}" if missing else ""
        whole = not missing and all(figure.whole for figure in found.values())
        return Found(found[lowest].value, note, whole)

    return find


def speed_over(name: str, who: str, dtype: str) -> Callable[[Results], Found | None]:
    """Finds our images a second in bfloat16 over a peer's in `dtype`, training."""

    def find(results: Results) -> Found | None:
        mine = ours(results, task=name, step="train", dtype="bfloat16")
        found = rows(results, task=name, step="train", dtype=dtype, who=who)
        if mine is None or not found:
            return None
        return Found(mine["images_per_second"] / found[0]["images_per_second"])

    return find


def memory_over(name: str, who: str, dtype: str) -> Callable[[Results], Found | None]:
    """Finds our memory in bfloat16 over a peer's in `dtype`, training, weights included."""

    def find(results: Results) -> Found | None:
        mine = ours(results, task=name, step="train", dtype="bfloat16")
        found = rows(results, task=name, step="train", dtype=dtype, who=who)
        if mine is None or not found or not mine["peak_bytes"] or not found[0]["peak_bytes"]:
            return None
        return Found(mine["peak_bytes"] / found[0]["peak_bytes"])

    return find


def own(field: str, name: str, remat: bool = False, an_image: bool = False) -> Callable:
    """Finds a figure of our own training step in bfloat16; `an_image` makes bytes MB an image."""

    def find(results: Results) -> Found | None:
        mine = ours(results, remat, task=name, step="train", dtype="bfloat16")
        if mine is None or mine.get(field) is None:
            return None
        return Found(mine[field] / mine["batch"] / MEGABYTE if an_image else mine[field])

    return find


def above_floor(results: Results) -> Found | None:
    """Finds the compiled step furthest above its floor, of `benchmarks.floors`."""
    ratios = {
        f"{row['model']}, {row['method']}, {step}": row[step]["compiled_flops"]
        / row[step]["floor_flops"]
        for record in results.values()
        if record.get("benchmark") == "floors"
        for row in record["rows"]
        for step in ("inference", "training")
    }
    if not ratios:
        return None
    name = max(ratios, key=ratios.__getitem__)
    more = sum(ratio > 1.03 for ratio in ratios.values())
    return Found(ratios[name], f"{name}; {more} of {len(ratios)} above 1.03")


def startup(kind: str) -> Callable[[Results], Found | None]:
    """Finds the seconds from a command to its first step, of `benchmarks.startup`."""

    def find(results: Results) -> Found | None:
        starts = results.get("startup", {}).get("starts", {}).get(kind)
        return Found(statistics.median(start["total"] for start in starts)) if starts else None

    return find


HEADLINE = "vpt_deep_50"
CPU = {
    ("vpt_deep_50", "train"): 1.15,
    ("vpt_deep_100", "train"): 1.3,
    ("vpt_deep_50", "inference"): 1.2,
    ("vpt_deep_100", "inference"): 1.4,
}
STEPS = {"train": "training", "inference": "inference"}
REST = {s: [n for n in TASKS if (n, s) not in CPU] for s in STEPS}

GOALS = (
    Goal("compiled FLOPs over the floor", "cpu", 1.03, above_floor, False, "{:.3f}"),
    *(
        Goal(
            f"{TASKS[n].title}, {STEPS[s]}: times the best PyTorch",
            "cpu",
            bound,
            against(n, s, "float32"),
        )
        for (n, s), bound in CPU.items()
    ),
    *(
        Goal(f"every other task, {STEPS[s]}: times the best PyTorch", "cpu", 1.0, worst(s, n))
        for s, n in REST.items()
    ),
    Goal("share of peak", "gpu", 0.5, own("of_floor_peak", HEADLINE), form="{:.1%}"),
    Goal("... stretch", "gpu", 0.6, own("of_floor_peak", HEADLINE), form="{:.1%}"),
    Goal("images/s", "H200", 5900, own("images_per_second", HEADLINE), form="{:.0f}"),
    Goal("times eager float32", "gpu", 8, speed_over(HEADLINE, "eager", "float32")),
    Goal("times compiled", "gpu", 1.3, against(HEADLINE, "train", "bfloat16", "compiled")),
    Goal(
        "memory over eager float32",
        "gpu",
        0.35,
        memory_over(HEADLINE, "eager", "float32"),
        False,
    ),
    Goal(
        "MB an image with block remat",
        "gpu",
        8,
        own("temporary_bytes", HEADLINE, remat=True, an_image=True),
        False,
    ),
    Goal("seconds to the first step, warm", "cpu", 15, startup("warm"), False, "{:.1f}"),
    Goal("seconds to the first step, cold", "cpu", 40, startup("cold"), False, "{:.1f}"),
)


def verdicts(results: Results, device: str, goals: Sequence[Goal] = GOALS) -> list[list[str]]:
    """Return a line a goal that is meant for the device, such as "gpu NVIDIA H200"."""
    lines = []
    for goal in goals:
        if goal.device not in device:
            continue
        said, found = goal.verdict(results)
        asked = f"{'at least' if goal.least else 'at most'} {goal.form.format(goal.bound)}"
        figure = "-"
        if found:
            figure = goal.form.format(found.value) + (f" ({found.note})" if found.note else "")
        lines.append([goal.name, asked, figure, said])
    return lines


def report(results: Results, device: str) -> str:
    """Return the table of verdicts."""
    where = f"VPT-deep 50 with ViT-B/16, training in bfloat16.{' '}" if "gpu" in device else ""
    return f"{where}{table(HEADER, verdicts(results, device), 'llll')}"
