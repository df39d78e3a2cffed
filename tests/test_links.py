"""Every relative link and anchor in the README, the pages and their neighbours leads somewhere."""

import re

import pytest

from tests.helpers.runs import HOME

PAGES = sorted(
    {*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), HOME / "benchmarks" / "README.md"}
    - {HOME / "CHANGELOG.md"}
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """Return the text of a page without blocks of code, in which brackets are no links."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors that a repository's page gives the headings of a text."""
    found: dict[str, int] = {}
    out = set()
    for heading in re.findall(r"^#+ +(.*?)#*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        out.add(f"{slug}-{count}" if count else slug)
    return out


def faults(page, text: str) -> list[str]:
    """Return the links of a page that lead nowhere."""
    out = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "`", prose(text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists():
            out.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(text if not path else there.read_text()):
            out.append(f"{target}: no such heading")
    return out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_every_link_leads_somewhere(page):
    assert faults(page, page.read_text()) == []


def test_faults_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# A heading, `code` and more\n## Twice\n## Twice\n")
    page = tmp_path / "page.md"
    page.touch()
    good = "[a](there.md) ![b](there.md#twice-1) [c](there.md#a-heading-code-and-more) [d](#own)\n"
    assert faults(page, f"{good}# Own\n```\n[x](nowhere.md)\n```\n`[x](nowhere.md)`\n") == []
    bad = "[a](nowhere.md) [b](there.md#thrice) [c](#other) [`d`](no.py)\n# Own\n"
    assert [line.partition(":")[0] for line in faults(page, bad)] == [
        "nowhere.md",
        "there.md#thrice",
        "#other",
        "no.py",
    ]
