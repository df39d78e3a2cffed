"""What the memory benchmark says: tables, checked claims, and the plot.

Memory is the peak held on the device where steps ran, else what the compiler sets aside.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import floors, measure
from vpjax.core.table import table

# dtype: largest difference of a logit; of the prompts' gradient, relative to its largest number.
LIMITS = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 5e-2)}
EXTRA = 1.01  # forward passes that remat may cost
# Powers of tokens: memory with flash grows less than, what flash saves grows more than.
LINEAR, SQUARE = 1.1, 1.8
SWITCHES = ((False, False), (True, False), (False, True), (True, True))  # flash, remat
GROUP = ("model", "pixels", "deep")

Row = dict[str, Any]


class Claim(NamedTuple):
    """A statement about all cells; None where nothing could be checked."""

    text: str
    holds: bool | None
    detail: str


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return what must hold, and whether it does."""
    known = [r for r in rows if "logits_differ" in r]
    grids = [grid for grid, _ in groups(rows)]
    return [
        every(
            "(a) prompts are inserted: every layer's have a gradient other than zero",
            [(r["name"], r["gradient_least"] > 0, "") for r in known],
        ),
        every(
            "(b) logits and gradients are the plain path's, within the limits",
            [(r["name"], correct(r), differences(r)) for r in known],
        ),
        every(
            "(c) flash needs less memory than no flash",
            list(pairs(grids, lambda remat: ((True, remat), (False, remat)))),
        ),
        every(
            "(c) remat needs less memory than no remat",
            list(pairs(grids, lambda flash: ((flash, True), (flash, False)))),
        ),
        every(
            "(c) with flash memory grows like tokens; without remat it saves tokens squared",
            list(growth(rows)),
        ),
        every("(d) remat costs one forward pass at most", list(extra_work(rows))),
    ]


def every(text: str, found: Sequence[tuple[str, bool, str]]) -> Claim:
    """Return a claim that holds if it does in all of the cases."""
    bad = [f"{name} {detail}".strip() for name, holds, detail in found if not holds]
    if not found:
        return Claim(text, None, "nothing to check it on")
    return Claim(text, not bad, "; ".join([f"{len(found) - len(bad)} of {len(found)}", *bad]))


def groups(rows: Sequence[Row]) -> Iterator[tuple[dict, Row]]:
    """Yields {(flash, remat): row} of each model, size and depth, and one of the rows."""
    for key in dict.fromkeys(tuple(r[n] for n in GROUP) for r in rows):
        mine = [r for r in rows if tuple(r[n] for n in GROUP) == key and not r["segments"]]
        if mine:
            yield {(r["flash"], r["remat"]): r for r in mine}, mine[0]


def pairs(grids: Sequence[dict], which: Any) -> Iterator[tuple[str, bool, str]]:
    """Yields whether the first of two cells needs less than the second."""
    for grid in grids:
        for other in (False, True):
            less, more = (grid.get(switches, {}) for switches in which(other))
            if need(less) and need(more):
                share = need(less) / need(more)
                yield less["name"], share < 1, f"needs {share:.2f} times as much"


def growth(rows: Sequence[Row]) -> Iterator[tuple[str, bool, str]]:
    """Yields whether with flash memory grows like tokens, and what it saves like their square.

    The square is of what is kept for the backward pass. With remat nothing of attention is kept,
    and flash saves what layers at work hold; how many are at work at once is the compiler's choice.
    """
    known = lines(rows)
    for (model, deep, flash, remat), line in known.items():
        label = f"{model} {depth(deep)}, remat {'on' if remat else 'off'}:"
        if flash and (power := exponent(line)) is not None:
            yield label, power < LINEAR, f"with flash, tokens to the power of {power:.2f}"
        plain = known.get((model, deep, False, remat), [])
        if flash and not remat and (power := saved_exponent(plain, line)) is not None:
            yield label, power > SQUARE, f"saved by flash, tokens to the power of {power:.2f}"


def lines(rows: Sequence[Row]) -> dict[tuple, list[Row]]:
    """Return {(model, deep, flash, remat): rows by size} of cells without segments."""
    found = {}
    for row in sorted(
        (r for r in rows if not r["segments"] and need(r)), key=lambda r: r["pixels"]
    ):
        found.setdefault((row["model"], row["deep"], row["flash"], row["remat"]), []).append(row)
    return found


def exponent(line: Sequence[Row]) -> float | None:
    """Return e where memory grows like T^e, T being the tokens that ask, between the two largest
    sizes; None for fewer."""
    return slope([(r["queries"], need(r)) for r in line])


def saved_exponent(plain: Sequence[Row], flash: Sequence[Row]) -> float | None:
    """Return e where the memory that flash saves grows like T^e, T^2 being queries times keys."""
    fused = {r["pixels"]: need(r) for r in flash}
    both = [r for r in plain if r["pixels"] in fused]
    return slope([((r["queries"] * r["keys"]) ** 0.5, need(r) - fused[r["pixels"]]) for r in both])


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return e where y grows like x^e between the last two points; 0 where y is not above 0."""
    if len(points) < 2:
        return None
    (x, u), (y, v) = points[-2:]
    return math.log(v / u) / math.log(y / x) if min(u, v) > 0 else 0.0


def extra_work(rows: Sequence[Row]) -> Iterator[tuple[str, bool, str]]:
    """Yields whether recomputing costs at most a forward pass, in each cell with remat."""
    plain = {tuple(r[n] for n in GROUP): r for r in rows if "forward_flops" in r}
    for row in rows:
        base = plain.get(tuple(row[n] for n in GROUP))
        if row["remat"] and "flops" in row and base:
            share = (row["flops"] - base["flops"]) / base["forward_flops"]
            yield row["name"], share <= EXTRA, f"costs {share:.3f} forward passes"


def need(row: Row) -> int | None:
    """Return the bytes of a step, as far as they are known."""
    return row.get("peak_bytes") or row.get("temporary_bytes")


def correct(row: Row) -> bool:
    """Whether a cell computes what the plain path does."""
    logits, gradient = LIMITS[row["dtype"]]
    return row["logits_differ"] <= logits and row["gradient_differs"] <= gradient


def differences(row: Row) -> str:
    """Return both differences and the verdict; "-" where there are none."""
    if "logits_differ" not in row:
        return "-"
    verdict = "pass" if correct(row) and row["gradient_least"] > 0 else "FAIL"
    return f"{row['logits_differ']:.0e} / {row['gradient_differs']:.0e} {verdict}"


def switched(flash: bool, remat: bool) -> str:
    """Return the names of the table's columns."""
    return f"flash {'on' if flash else 'off'}, remat {'on' if remat else 'off'}"


def depth(deep: bool) -> str:
    """Return "deep" or "shallow"."""
    return "deep" if deep else "shallow"


def report(record: dict[str, Any], found: Sequence[Claim]) -> str:
    """Return the record for people."""
    rows = record["rows"]
    first = rows[0]
    used = sorted({r["attention"] for r in rows if r.get("attention") and r["flash"]})
    ran = any(need(r) and r.get("peak_bytes") for r in rows)
    about = (
        f"A training step of {first['batch']} images in {first['dtype']}, "
        f"{first['num_tokens']} prompts. "
        f"Flash: {', '.join(used) or 'not measured'}. "
        + (
            "Memory: the most held on the device."
            if ran
            else "Memory: what the compiler sets aside."
        )
        + (f" XLA_FLAGS: {record['xla_flags']}." if record["xla_flags"] else "")
    )
    parts = [measure.heading("Memory of prompt tuning", record), about]
    columns = [switched(*s) for s in SWITCHES]
    parts += ["## MB", grid(rows, columns, lambda r: measure.megabytes(need(r)))]
    if ran:
        parts += ["## ms a step, median [shortest .. longest]", grid(rows, columns, timing)]
        parts += ["## Images a second", grid(rows, columns, rate)]
    if peak := record.get("peak_flops"):
        least = "## The floor's FLOPs a second, of the device's matrix peak"
        parts += [least, grid(rows, columns, lambda r: of_peak(r, peak))]
    parts += [
        "## Largest difference of a logit / of the prompts' gradient (relative)",
        grid(rows, columns, differences),
    ]
    if any(r["segments"] for r in rows):
        parts += ["## Remat in segments", segment_table(rows)]
    parts += ["## Work", work_table(rows)]
    parts += ["## Memory grows like tokens to the power of", growth_table(rows)]
    parts += ["## Claims", claim_table(found)]
    failed = [f"- {r['name']}: {r['failed']}" for r in rows if "failed" in r]
    return "\n\n".join(parts + (["## Failed", "\n".join(failed)] if failed else []))


def grid(rows: Sequence[Row], columns: Sequence[str], cell: Any) -> str:
    """Return the table of cells by model, size and depth."""
    lines = []
    for mine, one in groups(rows):
        values = [cell(mine[s]) if s in mine else "-" for s in SWITCHES]
        lines.append([one["model"], str(one["pixels"]), depth(one["deep"]), tokens(one), *values])
    return table(["model", "px", "prompts", "tokens", *columns], lines, "lrlr")


def segment_table(rows: Sequence[Row]) -> str:
    """Return memory and work by number of segments, finest last."""
    mine = [r for r in rows if r["segments"]]
    kind = {tuple(r[n] for n in GROUP) for r in mine}
    mine += [
        r for r in rows if r["remat"] and not r["segments"] and tuple(r[n] for n in GROUP) in kind
    ]
    lines = []
    for deep in (False, True):
        for count in sorted({r["segments"] for r in mine}, key=lambda n: n or 10**6):
            pair = {r["flash"]: r for r in mine if r["segments"] == count and r["deep"] == deep}
            if pair:
                one = next(iter(pair.values()))
                values = [
                    text
                    for flash in (False, True)
                    for text in (
                        measure.megabytes(need(pair.get(flash, {}))),
                        differences(pair.get(flash, {})),
                    )
                ]
                name = str(count or "a layer each")
                lines.append([one["model"], str(one["pixels"]), depth(deep), name, *values])
    header = ["model", "px", "prompts", "segments", "flash off: MB", "differ"]
    header += ["flash on: MB", "differ"]
    return table(header, lines, "lrlr")


def work_table(rows: Sequence[Row]) -> str:
    """Return GFLOP an image, with attention written out."""
    lines = []
    for mine, one in groups(rows):
        plain, remat = (mine.get((False, on), {}) for on in (False, True))
        counts = [plain.get("forward_flops"), plain.get("flops"), remat.get("flops")]
        counts = [c and c / one["batch"] for c in counts]
        counts.insert(1, one.get("floor_flops"))
        texts = ["-" if c is None else f"{c / 1e9:.1f}" for c in counts]
        lines.append([one["model"], str(one["pixels"]), depth(one["deep"]), *texts])
    header = ["model", "px", "prompts", "forward", "floor of a step", "step"]
    header += ["step with remat (GFLOP an image)"]
    return table(header, lines, "lrlr")


def growth_table(rows: Sequence[Row]) -> str:
    """Return the powers of tokens that memory grows with, between the two largest sizes."""
    known, texts = lines(rows), []
    said = lambda power: "-" if power is None else f"{power:.2f}"  # noqa: E731
    for model, deep, remat in dict.fromkeys((m, d, r) for m, d, _, r in known):
        plain, flash = (known.get((model, deep, on, remat), []) for on in (False, True))
        powers = exponent(plain), exponent(flash), saved_exponent(plain, flash)
        texts.append([model, depth(deep), "on" if remat else "off", *map(said, powers)])
    header = ["model", "prompts", "remat", "flash off", "flash on", "what flash saves"]
    return table(header, texts, "lllr")


def claim_table(found: Sequence[Claim]) -> str:
    """Return the claims and what became of them."""
    said = {True: "holds", False: "FAILS", None: "not checked"}
    return table(["claim", "", "cases"], [[c.text, said[c.holds], c.detail] for c in found], "l")


def tokens(row: Row) -> str:
    """Return tokens in all."""
    return str(row.get("tokens", "-"))


def timing(row: Row) -> str:
    """Return the times of a step."""
    return measure.ms(row) if "ms_median" in row else "-"


def rate(row: Row) -> str:
    """Return images a second."""
    return f"{row['images_per_second']:.0f}" if "images_per_second" in row else "-"


def of_peak(row: Row, peak: float) -> str:
    """Return the share of the device's peak; what remat does again does not count as done."""
    if "images_per_second" not in row:
        return "-"
    return floors.percent(row["floor_flops"] * row["images_per_second"] / peak)
