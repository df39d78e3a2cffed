"""What pages of the site say from the code: `<!-- generated: NAME -->` in a page becomes NAME().

Each function of `TABLES` returns Markdown. `docs/conf.py` fills the pages while the site is built.
"""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import vpjax
from configs import vtab
from vpjax import cli
from vpjax.cli import recipes
from vpjax.core import registry
from vpjax.data import PRESETS
from vpjax.data.benchmarks import BENCHMARKS
from vpjax.runs import defaults
from vpjax.weights.catalog import CATALOG

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s][^)\s]*)\)")  # no picture, no anchor alone
DOCS = Path(__file__).resolve().parent
# Beside the names of `vpjax`: what docs/adding.md says to subclass, and what its hooks are given.
EXTENSION_POINTS = (
    "vpjax.methods.base.Method",
    "vpjax.backbones.base.Backbone",
    "vpjax.backbones.base.Site",
    "vpjax.backbones.base.Stem",
    "vpjax.nn.tokens.Tokens",
    "vpjax.nn.context.Context",
    "vpjax.data.fields.Preset",
)


def fill(text: str) -> str:
    """Return a page with every mark replaced.

    Args:
        text: of the page, Markdown.

    Raises:
        KeyError: for a mark that stands for no function.
    """
    return MARK.sub(lambda match: TABLES[match[1]](), text)


def keep_inside(text: str, page: Path) -> str:
    """Return a page whose links to files outside docs/ are names of these files instead.

    In the repository these links lead somewhere; the site has no such files.

    Args:
        text: of the page, Markdown.
        page: where it lies.
    """

    def replace(match: re.Match) -> str:
        label, target = match.groups()
        path = (page.parent / target.partition("#")[0]).resolve()
        if "://" in target or path.is_relative_to(DOCS) or not path.is_relative_to(DOCS.parent):
            return match[0]
        name = f"`{path.relative_to(DOCS.parent)}`"
        return label if name == f"`{label}`" or label == name else f"{label} ({name})"

    return LINK.sub(replace, text)


def config() -> str:
    """Return a table for each section of the config: key, default, meaning."""
    sections: dict[str, list[list[str]]] = {}
    meanings = comments()
    for key, value in leaves(defaults.get_config()).items():
        section, _, rest = key.partition(".")
        if section == "method" or (section == "backbone" and key not in meanings):
            continue  # options of a class: tables of their own
        sections.setdefault(section if rest else "", []).append(
            [f"`config.{key}`", code(value), meanings.get(key, meanings.get(section, ""))]
        )
    sections["backbone"].insert(0, ["`config.backbone.*`", "", "options of the class"])
    sections["method"] = [
        ["`config.method.name`", code("vpt.VPT"), "the class; its options are further keys"]
    ]
    parts = []
    for section, rows in sorted(sections.items()):
        parts.append(f"### {f'config.{section}' if section else 'Keys without a section'}\n")
        if meaning := meanings.get(section, ""):
            parts.append(f"{meaning}\n")
        parts.append(table(("key", "default", "meaning"), rows))
    return "\n".join(parts)


def leaves(config: ConfigDict, before: str = "") -> dict[str, Any]:
    """Return the values of a config by dotted key; an empty section is a value."""
    out = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            out |= leaves(value, f"{before}{key}.")
        else:
            out[f"{before}{key}"] = value.to_dict() if isinstance(value, ConfigDict) else value
    return out


def comments() -> dict[str, str]:
    """Return what the source of vpjax/runs/defaults.py says of each key or section.

    That is the comment on the lines of its assignment and right above it. A comment above one
    assignment is also that of the next, if that follows at once and has none.
    """
    source = inspect.getsource(defaults)
    found = {}  # comments by line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.removeprefix("# ")
    alone = {n for n in found if source.splitlines()[n - 1].lstrip().startswith("#")}
    out = {key: text for key, text in arguments(defaults.backbone).items() if key != "options"}
    out = {f"backbone.{key}": text for key, text in out.items()}
    shared, last, text = [], 0, ""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        key = ast.unparse(node.targets[0])
        key = key.removeprefix("config.") if key.startswith("config.") else key
        first = node.lineno
        while first - 1 in alone:
            first -= 1
        lines = [n for n in range(first, node.end_lineno + 1) if n in found]
        if lines:
            shared = [n for n in lines if n in alone]
            text = prose(" ".join(found[n] for n in lines))
        elif not shared or node.lineno != last + 1:
            text = ""
        last = node.end_lineno
        if text:
            out.setdefault(key, text)
    return out


def methods() -> str:
    """Return a table of options for each method."""
    return classes("methods")


def backbones() -> str:
    """Return a table of options for each backbone."""
    return classes("backbones")


def classes(package: str) -> str:
    """Return what the classes of "methods" or "backbones" are, with a table of their options."""
    parts = []
    for name in registry.available(package):
        cls = registry.lookup(package, name)
        about = re.split(r"^(?:Args|Raises):", inspect.getdoc(cls), flags=re.MULTILINE)[0]
        parts.append(f"### {name}\n\n{prose(about.strip())}\n")
        meanings = option_meanings(cls)
        rows = [
            [f"`{key}`", code(value), meanings.get(key, "")]
            for key, value in vpjax.options_of(name).items()
        ]
        parts.append(table(("option", "default", "meaning"), rows) if rows else "No options.\n")
    return "\n".join(parts)


def option_meanings(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each option; the nearest wins."""
    out: dict[str, str] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("vpjax."):
            out = arguments(base) | out
    return out


def presets() -> str:
    """Return a table of the presets."""
    rows = [
        [f"`{name}`", *(code(getattr(preset, field)) for field in ("resize", "rule", "short"))]
        + [", ".join(preset.augment), code(preset.mean), code(preset.std)]
        for name, preset in PRESETS.items()
    ]
    head = ("preset", "resize", "rule", "short side", "training only", "mean", "std")
    return table(head, rows)


def weights() -> str:
    """Return a table of the weights that vpjax knows by name."""
    rows = []
    for name in vpjax.list_weights():
        entry = CATALOG[name]
        comes = "comes with vpjax" if not entry.url else f"`{entry.file}`"
        of = f"`{entry.backbone}`" if entry.backbone else "-"
        rows.append([f"`{name}`", prose(entry.description), of, f"`{entry.preset}`", comes])
    return table(("name", "what", "class", "preset", "file"), rows)


def published() -> str:
    """Return the table of published accuracies on VTAB-1k, which docs/start/choose.md holds."""
    groups: dict[str, list[str]] = {}
    for task, data in BENCHMARKS["vtab"].items():
        groups.setdefault(data.group, []).append(task)
    rows = []
    for name, (cls, _, _) in vtab.METHODS.items():
        if name in vtab.EXPECTED:
            found = vtab.EXPECTED[name]
            means = [sum(found[t] for t in tasks) / len(tasks) for tasks in groups.values()]
        elif name in vtab.GROUP_MEANS:
            means = vtab.GROUP_MEANS[name]
        else:
            continue
        rows.append(
            [f"`{cls}`", f"`{name}`", *(f"{m:.1f}" for m in (*means, sum(means) / len(means)))]
        )
    rows.sort(key=lambda row: float(row[-1]))
    return table(("class", "method=", *groups, "mean of the groups"), rows)


def recipe_list() -> str:
    """Return what the docstring of each recipe says, with its choices."""
    parts = []
    for name in recipes.names():
        tree = ast.parse((recipes.FOLDER / f"{name}.py").read_text())
        first, _, rest = ast.get_docstring(tree).partition("\n")
        parts.append(f"### {name}\n\n{prose(first)}\n")
        if found := choices(tree):
            parts.append(table(("choice", "default"), [[f"`{k}`", v] for k, v in found.items()]))
        parts.append(f"```text\n{rest.strip(chr(10))}\n```\n" if rest.strip() else "")
    return "\n".join(parts)


def choices(tree: ast.Module) -> dict[str, str]:
    """Return the choices of a recipe and their defaults, from its calls of `choices`."""
    out = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("choices"):
            out |= {k.arg: f"`{ast.unparse(k.value)}`" for k in node.keywords if k.arg}
    return out


def commands() -> str:
    """Return the help of each command."""
    parts = []
    for name, parser in cli.parsers().items():
        parts.append(f"### {name}\n\n```text\n{parser.format_help().strip()}\n```\n")
    return "\n".join(parts)


def api() -> str:
    """Return the directives that document the names of `vpjax`."""
    return directives([f"vpjax.{name}" for name in vpjax.__all__])


def extension_points() -> str:
    """Return the directives that document what own methods and backbones build on."""
    return directives(EXTENSION_POINTS)


def directives(names) -> str:
    """Return an autodoc directive for each dotted name, under a heading of its own."""
    parts = []
    for dotted in names:
        module, _, name = dotted.rpartition(".")
        module = "vpjax" if module == "vpjax" else module
        thing = getattr(__import__(module, fromlist=[name]), name)
        kind = "autofunction" if inspect.isfunction(thing) else "autoclass"
        more = "" if kind == "autofunction" else "   :members:\n   :member-order: bysource\n"
        parts.append(f"### {name}\n\n```{{eval-rst}}\n.. {kind}:: {dotted}\n{more}```\n")
    return "\n".join(parts)


def arguments(thing: Any) -> dict[str, str]:
    """Return what a docstring says of each argument."""
    doc = inspect.getdoc(thing) or ""
    section = re.search(r"^Args:\n((?: {4}.*\n|\n)*)", doc + "\n", re.MULTILINE)
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.M)
    return {
        name: prose(" ".join(text.split())) for names, text in entries for name in names.split(", ")
    }


def prose(text: str) -> str:
    """Return text of a docstring or comment as Markdown, with links to pages it names."""
    text = re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)

    def link(match: re.Match) -> str:
        there = (DOCS / match[1]).exists()
        return f"[{match[0]}](../{match[1]})" if there else match[0]

    return re.sub(r"docs/([\w/]+\.md)", link, text)


def code(value: Any) -> str:
    """Return a value as code."""
    return f"`{value!r}`"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a table in Markdown, with columns of numbers to the right."""
    number = re.compile(r"[\d.]+")
    right = [all(number.fullmatch(row[i]) for row in rows) for i in range(len(head))]
    lines = [head, ["---:" if at_right else ":---" for at_right in right], *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


TABLES = {
    function.__name__: function
    for function in (
        api,
        backbones,
        commands,
        config,
        extension_points,
        methods,
        presets,
        recipe_list,
        weights,
    )
}
