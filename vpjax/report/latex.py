"""Tables for a paper: methods as rows, data sets as columns, with booktabs."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vpjax.core import escape
from vpjax.report import comparability
from vpjax.report.means import means
from vpjax.report.tables import Table

HEAD = r"""% Needs \usepackage{booktabs} and \usepackage{graphicx}.
% Percent, mean and population standard deviation over seeds; the best mean is bold.
"""
WIDE = 8  # columns that fit a page as they are
_LETTERS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LETTERS |= {letter: "\\" + letter for letter in "&%$#_{}"}
_LETTERS |= {"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


class _Place(NamedTuple):
    """A column: a data set, or a mean."""

    name: str
    group: str
    mean: bool


class _Number(NamedTuple):
    """A number in percent, printed with `digits` after the point."""

    value: float
    std: float | None
    published: float | None
    digits: int


def latex(tables: Iterable[Table]) -> str:
    """Return LaTeX of all tables."""
    return HEAD + "\n".join(map(_table, tables))


def escaped(text: str) -> str:
    """Return text with LaTeX's special letters escaped."""
    return "".join(_LETTERS.get(letter, letter) for letter in escape.one_line(text))


def _table(table: Table) -> str:
    places = _places(table)
    rows = {method: _numbers(table, method) for method in table.methods}
    best = {}
    for place in places:
        found = [row[place].value for row in rows.values() if place in row]
        best[place] = max(found) if len(found) > 1 else None
    body = [*_groups(places), _names(places), r"\midrule"]
    for method, row in rows.items():
        cells = list(table.row(method).values())
        share = f"{sum(c.percent for c in cells) / len(cells):.2f}"
        texts = [_number(row.get(p), best[p]) for p in places]
        body.append(_line([escaped(method), share, *texts]))
        if any(number.published is not None for number in row.values()):
            texts = [_published(row.get(p)) for p in places]
            body.append(_line([r"\quad \textit{published}", "", *texts]))
    fit, end = (r"\resizebox{\textwidth}{!}{%", "}") if len(places) > WIDE else ("", "")
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_caption(table)}}}"]
    lines += [rf"\label{{tab:{table.suite or 'other'}}}", r"\setlength{\tabcolsep}{3pt}", fit]
    lines += [rf"\begin{{tabular}}{{lr{'r' * len(places)}}}", r"\toprule", *body]
    lines += [r"\bottomrule", rf"\end{{tabular}}{end}", r"\end{table}", ""]
    return "\n".join([*filter(None, lines), ""])


def _caption(table: Table) -> str:
    """Return the title, the sources of the numbers and how many seeds they have."""
    cells = [cell for method in table.methods for cell in table.row(method).values()]
    found = [comparability.benchmark_facts(run) for cell in cells for run in cell.runs]
    facts = [" / ".join(dict.fromkeys(f[kind] for f in found)) for kind in comparability.KINDS]
    counts = sorted({len(cell.runs) for cell in cells})
    seeds = "--".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    data = comparability.KINDS.index("data")
    facts[data] = f"data: {facts[data]}"
    return f"{escaped(table.title)}: {escaped('; '.join(facts))}; seeds: {seeds}."


def _places(table: Table) -> list[_Place]:
    """Return columns in order, each group followed by its mean."""
    out = []
    found = {mean.name for mean in means(table, table.methods[0])}
    for i, column in enumerate(table.columns):
        out.append(_Place(column.name, column.group, False))
        last = i + 1 == len(table.columns) or table.columns[i + 1].group != column.group
        if last and column.group in found:
            out.append(_Place(column.group, column.group, True))
    named = {place.name for place in out if place.mean}
    rest = [m.name for m in means(table, table.methods[0]) if m.name not in named]
    return out + [_Place(name, "", True) for name in rest]


def _numbers(table: Table, method: str) -> dict[_Place, _Number]:
    """Return the numbers of the places that have one."""
    groups = {column.name: column.group for column in table.columns}
    out = {}
    for name, cell in table.row(method).items():
        number = _Number(cell.mean, cell.std, cell.published, 1)
        out[_Place(name, groups[name], False)] = number
    for mean in means(table, method):
        if mean.value is not None:
            group = mean.name if mean.name in groups.values() else ""
            number = _Number(mean.value, mean.std, mean.published, 2)
            out[_Place(mean.name, group, True)] = number
    return out


def _number(number: _Number | None, best: float | None) -> str:
    if number is None:
        return "--"
    text = f"{number.value:.{number.digits}f}"
    text = rf"\textbf{{{text}}}" if number.value == best else text
    if number.std is None:
        return text
    return text + rf" {{\scriptsize$\pm${number.std:.{number.digits}f}}}"


def _published(number: _Number | None) -> str:
    if number is None or number.published is None:
        return ""
    return rf"\textit{{{number.published:.{number.digits}f}}}"


def _groups(places: Sequence[_Place]) -> list[str]:
    """Return the line of group names and the rules under them; nothing without groups."""
    cells, rules, start = ["", ""], [], 3
    for group in dict.fromkeys(p.group for p in places):
        width = sum(p.group == group for p in places)
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group.capitalize())}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [_line(cells), " ".join(rules)] if rules else []


def _names(places: Sequence[_Place]) -> str:
    named = ["mean" if p.mean and p.group else p.name for p in places]
    turned = [rf"\rotatebox{{90}}{{{escaped(name)}}}" for name in named]
    return _line(["Method", r"trained (\%)", *turned])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
