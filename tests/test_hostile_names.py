"""Names of classes, files, runs and arrays that attack what reads them: all outputs are harmless.

One list of names goes through every output: log and screen, progress, tables as .md, .csv and .tex,
run.html and report.html, predictions as CSV, JSON lines and a page, the card, the page of the demo,
and pictures with names in their titles and axes.
"""

import csv
import html.parser
import io
import json
import logging
import re

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.helpers import results
from vpjax.core import escape, logs, table
from vpjax.core.files import write_json
from vpjax.core.progress import DownloadBar, Progress
from vpjax.report import answer_files, demo_page
from vpjax.report.plots import style
from vpjax.report.run_page import write_run_page
from vpjax.report.write import report
from vpjax.runs import card, classes
from vpjax.runs.predict import Answer, Tally
from vpjax.runs.split_files import write_per_class, write_predictions
from vpjax.train.evaluate import Predictions
from vpjax.weights import formats

NAMES = (
    "\x1b[2J\x1b]0;pwned\x07evil",  # clears the screen, names the window
    "\x9b31mred\x85",  # the same in one character
    "cat\rdog\x08\x7f",  # writes over the line
    "\u202egnp.exe\u2066",  # runs backwards
    '=HYPERLINK("http://evil","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "＝1+1",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><svg onload=alert(1)>",
    "[x](javascript:alert(1)) ![y](http://evil/z)",
    "`**a**` | b | ```\n# c",
    "$\\input{/etc/passwd}$",
    "a$b",
    "100%_{x^2~#&}",
    "\\end{table}\\write18{x}",
    "byte \udcff\udc80",
    "new\nline",
    "'quoted",
)
TAGS = ("<script>alert", "<img src=x", "<svg", "</title></style>")


def harmless(text):
    """Fail if a text holds what moves a terminal."""
    found = escape._HARMFUL.findall(text)
    assert not found, found
    return text


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def sound_page(text):
    """Fail if a page has a tag or an attribute that a name has made."""
    harmless(text)
    reader = Tags()
    reader.feed(text)
    for tag, attributes in reader.found:
        assert tag not in ("svg", "iframe", "object", "embed"), tag
        assert not any(key.startswith("on") for key in attributes), attributes
        assert not attributes.get("src", "data:").startswith(("http", "x", "javascript")), (
            attributes
        )
        assert not attributes.get("href", "").startswith(("javascript", "http")), attributes
    assert [tag for tag, _ in reader.found].count("script") <= 1
    return reader


def sound_csv(text):
    rows = list(csv.reader(io.StringIO(text, newline="")))
    for row in rows:
        for cell in row:
            formula = cell.lstrip().startswith(tuple(escape.FORMULA))
            assert not formula or re.fullmatch(r"-?[\d.e+-]+", cell), cell
    return rows


def sound_markdown(text):
    harmless(text)
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", text, flags=re.S | re.M)
    assert not any(tag in outside.replace("\\<", "") for tag in TAGS)
    assert not re.search(r"(?<!\\)\]\((javascript|http)", outside)
    return outside


def test_the_screen_and_the_log(tmp_path):
    screen = io.StringIO()
    logs.to_screen(screen)
    logger = logging.getLogger("vpjax")
    try:
        with logs.to_file(tmp_path / "log.txt"):
            for name in NAMES:
                logger.info("class %s", name)
                logger.warning("warning   %s", name)
                logger.info("\n%s\n", table.table(["name", "n"], [[name, "1"]]))
    finally:
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    for text in (screen.getvalue(), (tmp_path / "log.txt").read_text(encoding="utf-8")):
        harmless(text)
        assert "\\x1b[2J" in text and "\\u202egnp" in text and "\\xff" in text


def test_progress_and_downloads(capsys):
    stream = io.StringIO()
    for name in NAMES:
        with Progress(2, batch_size=1, stream=stream, every_seconds=0.0, what=name) as progress:
            progress.line(f"now {name}")
            progress.update(1, {f"{name}_loss": 1.0})
        with DownloadBar(name, 10) as bar:
            bar.add(10)
    harmless(stream.getvalue())
    harmless(capsys.readouterr().err)


def test_errors_of_commands(tmp_path, capsys):
    from vpjax import cli

    for name in NAMES:
        assert cli.main(["report", f"--workdir={tmp_path / 'no'}{name}".replace("\0", "")]) == 2
        assert cli.main(["eval", "--workdir", f"{tmp_path}/{name}"]) == 2
        assert cli.main([name]) == 2
    harmless(capsys.readouterr().err)


def test_names_of_arrays(tmp_path, capsys):
    from vpjax import cli

    arrays = {name.encode("utf-8", "replace").decode(): np.zeros(3, np.float32) for name in NAMES}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    assert formats.shapes(tmp_path / "w.safetensors")
    command = ["--config=configs/digits.py:linear", f"--workdir={tmp_path / 'run'}"]
    command.append(f"--config.backbone.weights={tmp_path / 'w.safetensors'}")
    assert cli.main(command) == 2
    harmless("".join(capsys.readouterr()))


def test_csv_files(tmp_path):
    names = [n.replace("\n", " ") for n in NAMES]
    n = len(names)
    labels = np.arange(n)
    shares = np.full((n, 2), 0.5, np.float32)
    top = np.stack([labels, (labels + 1) % n], 1)
    numbers = {"shares": shares, "own": shares[:, 0], "margins": shares[:, 0]}
    predictions = Predictions(labels=labels, predictions=labels, top=top, **numbers)
    write_predictions(tmp_path / "predictions.csv", predictions, names, names)
    write_per_class(tmp_path / "per_class.csv", predictions, names, [1] * n)
    for file in ("predictions.csv", "per_class.csv"):
        text = (tmp_path / file).read_bytes().decode("utf-8", "surrogateescape")
        rows = sound_csv(text)
        assert len(rows) == n + 1
    header, rows = table.read_rows(tmp_path / "per_class.csv")
    found = [row[header.index("class")] for row in rows]
    assert found == [escape.controls(name) for name in names]  # and back


def test_a_spreadsheet_keeps_numbers():
    assert [escape.cell(v) for v in (-2, "-2.5", "+3", "-2+3", 1.5, None, "")] == [
        *(-2, "-2.5", "'+3", "'-2+3", 1.5, None, ""),
    ]
    for name in NAMES:
        assert escape.plain(escape.cell(name)) == escape.controls(name)


def answer(name):
    return Answer(f"/photos/{name}.png", (0, 1), (name, "b"), (0.75, 0.25), (name,), 1.0, name)


@pytest.mark.parametrize("kind", answer_files.KINDS)
def test_predictions(tmp_path, kind):
    path, tally = tmp_path / f"p.{kind}", Tally()
    facts = {"title": NAMES[0] + NAMES[10], "about": NAMES[11]}
    outputs = answer_files.Outputs([path], kind, 2, True, True, facts)
    tally.skipped = {name: f"no picture {name}" for name in NAMES}
    for name in NAMES:
        tally.add(answer(name))
        outputs.add(answer(name))
    outputs.close(tally)
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if kind == "html":
        sound_page(text)
    elif kind == "csv":
        assert len(sound_csv(text)) == len(NAMES) + 1
    else:
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["true"] for line in lines] == list(NAMES) and text.isascii()


def test_predictions_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    outputs = answer_files.Outputs([], "csv", 2, False, True, {})
    for name in NAMES:
        outputs.add(answer(name))
    outputs.close(Tally())
    harmless(screen.getvalue().replace("\r", ""))


def run_of(folder, name, seed):
    config = results.config_of("fgvc", "cub", seed=seed, label=name)
    config.data.name = "folder:" + name
    config.study.expected = {"value": 80.0, "tolerance": 1.0, "source": name}
    data = {"train": {"name": name, "images": 4}, "test": {"name": name, "images": 2}}
    weights = {"where": name, "sha256": "ab" * 32}
    more = {"data": data, "weights": weights, "command": f"python main.py {name}"}
    more |= {"devices": [name], "versions": {name: name}, "preset": name, "method": name}
    run = results.write(folder, config, 80.0, **more)
    facts = {"classes": [name, "b"], "rows": [0, 1], "columns": 6}
    facts["splits"] = {"train": {"name": name, "images": 4, "by_class": [2, 2]}}
    write_json(run / "examples.json", facts)
    Image.new("RGB", (40, 40)).save(run / "examples.png")
    table.write_csv(run / "per_class.csv", [{"label": 0, "class": name, "accuracy": 50.0}])
    shown = name.encode("utf-8", "replace").decode()
    (run / "log.txt").write_text(f"2026-01-01 10:00:00 {shown}\n```\n", encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A report of runs with hostile names, in folders with hostile names."""
    top = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(NAMES):
        run_of(top / name.replace("/", "_")[:40] / "seed0", name, seed)
    report(top)
    return top


def test_reports(reported):
    for name in ("report.csv", "report_runs.csv"):
        sound_csv((reported / name).read_bytes().decode("utf-8", "surrogateescape"))
    sound_page((reported / "report.html").read_text())
    sound_markdown((reported / "report.md").read_text())
    tex = harmless((reported / "report.tex").read_text())
    body = tex.replace("\\\\", "")
    for wrong in ("\\input{", "\\write18", "\\end{table}\\textback"):
        assert wrong not in body, wrong
    assert tex.count("\\begin{table}") == tex.count("\\end{table}")
    assert len(re.findall(r"(?<!\\)\$", tex)) % 2 == 0  # only those of ± and our own
    for picture in reported.glob("report_*.png"):
        with Image.open(picture) as image:
            harmless(image.info.get("Description", ""))


def test_the_page_of_a_run(reported):
    for run in sorted(reported.glob("*/seed0"))[::3]:
        write_run_page(run)
        sound_page((run / "run.html").read_text())


def test_the_page_of_the_demo():
    for name in NAMES:
        sound_page(demo_page.page(name, name, [name, "b"], name, examples=name, several=True))


def test_the_card():
    for name in NAMES:
        config = {"data": {"name": f"folder:/x/{name}", "train": name, "val": "", "test": name}}
        facts = {
            **dict.fromkeys(("method", "backbone", "preset", "weights", "vpjax"), name),
            **{"weights_sha256": "ab", "licence": "None is known", "classes": [name, "b"]},
            **{"method_options": {"key": name}, "image_size": [8, 8], "config": config},
            "metrics": {"metric": "accuracy", "test_accuracy": 80.0, "step": 3},
        }
        text = card.card(facts, None, name, name)
        front, rest = text.split("\n---\n", 1)
        assert front.startswith("---\nlibrary_name: vpjax\n") and front.isascii()
        without = rest.encode("utf-8", "replace").decode()
        outside = re.sub(r"(?s)```.*?```", "", without).replace("\\<", "")
        assert not any(tag in outside for tag in TAGS)


def test_pictures(tmp_path):
    for i, name in enumerate(NAMES):
        figure = style.figure_of(5, 5)
        axes = figure.subplots()
        axes.plot([1, 2], [1, 2], label=name)
        axes.set_title(name)
        axes.set_xticks([1, 2], [name, "b"])
        axes.set_yscale("log")
        axes.legend()
        style.describe(figure, f"shown: {name}")
        style.save(figure, tmp_path / f"{i}.png", 50)
        with Image.open(tmp_path / f"{i}.png") as image:
            harmless(image.info["Description"])


def test_classes_file(tmp_path):
    found = classes.ClassInfo(NAMES, tuple({"name": n} for n in NAMES), False, 3, None)
    classes.write_classes(found, tmp_path)
    assert (tmp_path / "classes.json").read_text().isascii()
    assert classes.read_classes(tmp_path) == found


def test_honest_texts_stay():
    assert escape.terminal("plain — text ± 1\tand\nmore é 猫") == "plain — text ± 1\tand\nmore é 猫"
