"""The site: what it says from the code is complete, and it builds."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import vpjax
from docs import generate
from tests.helpers.runs import FAST, HOME
from vpjax import cli
from vpjax.cli import recipes
from vpjax.data import PRESETS
from vpjax.runs import defaults
from vpjax.weights.catalog import CATALOG

DOCS = HOME / "docs"


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables in a text by their first cell, without its backticks."""
    cells = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.splitlines() if line[:1] == "|"]
    return {first.strip("`"): rest for first, *rest in cells}


def test_every_key_of_the_config_has_its_default_and_a_meaning():
    table = rows(generate.config())
    for key, value in generate.leaves(defaults.get_config()).items():
        if key.split(".")[0] in ("method", "backbone"):
            continue  # options of classes, see below
        default, meaning = table[f"config.{key}"]
        assert default == f"`{value!r}`", key
        assert meaning.strip(), f"{key} has no comment in vpjax/runs/defaults.py"
    for key in ("weights", "head", "resample"):
        assert table[f"config.backbone.{key}"][1].strip()


@pytest.mark.parametrize(
    "key, says",
    [
        ("train.batch_size", "images of a step, over all devices"),
        ("train.accumulate", "parts that a batch is split into"),  # a comment on its own line
        ("data.preset", "Preprocessing: a name, or fields"),  # above the key, of two lines
        ("train.cutmix", "Alphas of mixup and cutmix"),  # shared with the key before
        ("study.tune.also", "changes that go with a value"),
        ("optim.warmup_steps", "Instead of warmup_epochs"),
        ("backbone.weights", "a path, an address"),  # of the function's docstring
    ],
)
def test_comments_belong_to_their_keys(key, says):
    assert says in generate.comments()[key]


def test_a_comment_is_not_that_of_a_later_key():
    assert "Preprocessing" not in generate.comments()["data.augment"]
    assert "mixup" not in generate.comments()["train.class_weights"]


@pytest.mark.parametrize("package", ["methods", "backbones"])
def test_every_option_has_its_default_and_a_meaning(package):
    names = vpjax.list_methods() if package == "methods" else vpjax.list_backbones()
    parts = re.split(r"^### ", generate.TABLES[package](), flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == names
    for name, part in zip(names, parts, strict=True):
        table = rows(part)
        for option, value in vpjax.options_of(name).items():
            default, meaning = table[option]
            assert default == f"`{value!r}`" and meaning.strip(), f"{name}: {option}"


def test_nothing_is_left_out():
    assert list(PRESETS) == [name for name in rows(generate.presets()) if name in PRESETS]
    assert sorted(CATALOG) == [name for name in rows(generate.weights()) if name in CATALOG]
    for text, names in (
        (generate.recipe_list(), recipes.names()),
        (generate.commands(), cli.COMMANDS),
        (generate.api(), vpjax.__all__),
    ):
        headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
        assert headings == list(names)


def test_recipes_have_their_choices():
    part = generate.recipe_list().split("### vtab\n")[1].split("\n### ")[0]
    assert rows(part)["method"] == ["`'vpt_deep'`"]
    assert "by an honest protocol" in part and "python main.py tune" in part


def test_every_mark_is_filled_and_everything_is_shown_once():
    marks = [m for page in DOCS.rglob("*.md") for m in generate.MARK.findall(page.read_text())]
    assert sorted(marks) == sorted(generate.TABLES)
    assert generate.fill("a\n<!-- generated: presets -->\nb") == f"a\n{generate.presets()}\nb"
    with pytest.raises(KeyError):
        generate.fill("<!-- generated: nothing -->")


def test_links_out_of_the_pages_become_names():
    inside = "[b](data.md#pixels) ![c](../x.png) [d](https://example.org) [e](/nowhere)"
    text = f"[a](../vpjax/cli) {inside} [`README.md`](../README.md)"
    kept = generate.keep_inside(text, DOCS / "page.md")
    assert kept == f"a (`vpjax/cli`) {inside} `README.md`"


def test_published_accuracies_are_those_of_the_recipes():
    page = (DOCS / "start" / "choose.md").read_text()
    inside = page.split("<!-- published -->\n")[1].split("<!-- end -->")[0]
    assert inside == generate.published()


def test_every_page_is_in_the_site():
    index = (DOCS / "index.md").read_text()
    patterns = re.findall(r"^[\w/*]+$", index, re.MULTILINE)
    found = {p for pattern in patterns for p in DOCS.glob(f"{pattern}.md")} | {DOCS / "index.md"}
    assert found == set(DOCS.rglob("*.md"))


def test_the_citation():
    citation = yaml.safe_load((HOME / "CITATION.cff").read_text())
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"]


def test_the_dockerfile_copies_what_is_there_and_knows_the_extras():
    lines = re.sub(r"\\\n", " ", (HOME / "Dockerfile").read_text()).splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "ENTRYPOINT"}
    assert {step[0] for step in steps} == known
    copied = [name for word, *names, _ in steps if word == "COPY" for name in names]
    assert all((HOME / name).exists() for name in copied)
    project = tomllib.loads((HOME / "pyproject.toml").read_text())
    needs = {project["project"]["readme"], "requirements-cpu.txt", "vpjax", "configs"}
    assert needs <= set(copied)
    named = re.findall(r"EXTRA=(\w+)", (HOME / "Dockerfile").read_text())
    assert set(named) - {"cpu"} <= set(project["project"]["optional-dependencies"])
    assert ["ENTRYPOINT", '["vpjax"]'] in steps and "vpjax" in project["project"]["scripts"]


class Links(HTMLParser):
    """The places of a page, and what it links to."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if found.get("id") else set()
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


@pytest.mark.slow
def test_the_site_builds_and_its_links_lead_somewhere(tmp_path):
    for module in ("sphinx", "myst_nb", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"without {module}: pip install -e '.[docs]'")
    env = os.environ | {"PYTHONPATH": str(HOME), "XLA_FLAGS": FAST, "VPJAX_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-E", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", tmp_path / "doctrees", DOCS, tmp_path / "html"],
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page: Links(page.read_text()) for page in (tmp_path / "html").rglob("*.html")}
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    lost = []
    for page, found in pages.items():
        for link in found.links:
            path, _, anchor = unquote(link).partition("#")
            path = path.partition("?")[0]
            if ":" in path:
                continue
            there = (page.parent / path).resolve() if path else page
            known = pages[there].ids if there in pages else {anchor}
            if not Path(there).exists() or (anchor and anchor not in known):
                lost.append(f"{page.name}: {link}")
    assert lost == []
