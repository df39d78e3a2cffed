"""run.html: what it says of a run, that nothing of the data can act in it, and in a browser."""

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.helpers import results
from tests.helpers.pages import BROWSER, in_browser, parsed
from vpjax.core.files import write_json
from vpjax.data.arrays import from_arrays
from vpjax.report import examples, run_files
from vpjax.report.blocks import Facts, Grid, Heading, Listing, Picture, Rich, Sheet, Text
from vpjax.report.html import POLICY, page
from vpjax.report.markdown import markdown
from vpjax.report.page_style import SCRIPT
from vpjax.report.plots import style
from vpjax.report.run_page import write_run_page
from vpjax.report.write import report

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></td></table>&amp;",
    "猫とネコ",
    "כלב <b>",
    "'; DROP TABLE & 🦊",
)


def written(folder, names=HOSTILE, **changes):
    """A finished run with examples, tables and pictures, all with such names."""
    config = results.config_of("vtab", "dtd", label=names[0])
    command = f"python main.py --config vtab --workdir '{names[1]}'"
    more = {"command": command, "commit": "0123456789abcdef" * 2 + "01234567"}
    results.write(folder, config, 69.25, **more, **changes)
    rng = np.random.default_rng(0)
    labels = np.arange(4 * len(names)) % len(names)
    images = rng.integers(0, 255, (len(labels), 20, 12, 3), np.uint8)
    source = from_arrays(images, labels, names)
    experiment = SimpleNamespace(
        sources={"train": source}, classes=SimpleNamespace(names=tuple(names))
    )
    examples.write_examples(experiment, folder)
    lines = [f'"{name.replace(chr(34), chr(34) * 2)}",{i},50.12345' for i, name in enumerate(names)]
    text = "\n".join(["class,images,accuracy", *lines])
    (folder / "per_class.csv").write_text(text + "\n", encoding="utf-8")
    for name in ("mistakes", "gradcam", "curves", "猫<b>"):
        Image.new("RGB", (40, 30), "red").save(folder / f"{name}.png")
    with open(folder / "log.txt", "a", encoding="utf-8") as file:
        file.write("\n".join(names))
    return folder


def test_what_comes_from_data_cannot_act(tmp_path):
    folder = written(tmp_path / "Läufe <i>" / "猫")
    found = parsed(write_run_page(folder))
    assert found.scripts == [SCRIPT] and found.tags.count("script") == 1
    assert not {"b", "i", "iframe", "object"} & set(found.tags)
    assert not [a for a in found.attributes if a[1].startswith("on")]
    for name in HOSTILE:
        assert name in found.words
        assert any(name in image["alt"] for image in found.images)  # of the contact sheet
    assert ("meta", "content", POLICY) in found.attributes
    sources = [value for tag, key, value in found.attributes if key == "src"]
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)


def test_the_page_says_what_the_run_is(tmp_path):
    names = ["cat", "dog", "fox"]
    found = parsed(write_run_page(written(tmp_path / "run", names, seconds=7300.0)))
    for said in (
        "The method vpt.VPT on the backbone vit.ViT",
        "trained on 1,000 images of",
        "accuracy 69.25 % on test (500 images)",
        "n = 500 images",
        "1,000",
        "2.0 h",
        "python main.py --config vtab",
        "commit 0123456789ab",
        "cat (4)",
        "50.12",
        "python main.py predict --workdir",
        "vpjax.load_run(",
    ):
        assert said in found.words, said
    captions = [image["alt"] for image in found.images]
    assert captions[:3] == ["cat (4)", "dog (4)", "fox (4)"]
    order = [
        name for name in ("Loss", "Mistakes:", "Grad-CAM", "猫<b>") for c in captions if name in c
    ]
    assert order == ["Loss", "Mistakes:", "Grad-CAM", "猫<b>"]
    assert {"result.json", "per_class.csv", "config.json"} <= set(found.links)
    anchors = {link.removeprefix("#") for link in found.links if link.startswith("#")}
    assert anchors == {value for _, key, value in found.attributes if key == "id"}
    assert {"data", "result", "mistakes", "what-was-learnt"} <= anchors


def test_a_run_that_goes_on_may_delete_what_the_page_lists(tmp_path, monkeypatch):
    last = tmp_path / "checkpoints" / "last"
    for step in "24":
        (last / step).mkdir(parents=True)
        (last / step / "array").write_bytes(bytes(1500))
    real = run_files.os.walk

    def walk(top):
        yield from real(top)
        yield str(last / "1"), [], ["array"]  # which was there a moment ago

    monkeypatch.setattr(run_files.os, "walk", walk)
    rows = run_files.files(tmp_path).rows
    assert "3,000 bytes" in str(rows)


def test_a_run_from_python_has_no_command(tmp_path):
    folder = results.write(tmp_path / "run", results.config_of("vtab", "dtd"), 60.0, command="")
    assert "from Python." in parsed(write_run_page(folder)).words


def test_a_sheet_has_a_row_for_each_class_and_images_keep_their_shape(tmp_path):
    images = np.zeros((6, 10, 40, 3), np.uint8)
    images[:] = (np.arange(6) * 40)[:, None, None, None]
    source = from_arrays(images, np.array([0, 2, 0, 2, 2, 0]), ["a", "b", "c"])
    classes = SimpleNamespace(names=("a", "b", "c"))
    examples.write_examples(SimpleNamespace(sources={"train": source}, classes=classes), tmp_path)
    facts = json.loads((tmp_path / "examples.json").read_text())
    assert facts["rows"] == [0, 2]  # there is no image of b
    assert facts["splits"]["train"]["by_class"] == [3, 0, 3]
    with Image.open(tmp_path / "examples.png") as image:
        sheet = np.asarray(image)
    step = examples.EDGE + examples.GAP
    assert sheet.shape == (2 * step, examples.COLUMNS * step, 4)
    middle = sheet[step // 2, step // 2 :: step]
    assert middle[:3].tolist() == [[v, v, v, 255] for v in (0, 80, 200)] and (middle[3:] == 0).all()
    assert sheet[4, step // 2, 3] == 0  # above a wide image
    assert examples.sheet(tmp_path).rows == ["a (3)", "c (3)"]


def test_many_classes_are_folded_and_scroll(tmp_path):
    folder = results.write(tmp_path / "run", results.config_of("vtab", "dtd"), 60.0)
    names = [f"class {i}" for i in range(1000)]
    split = {"name": "x[train]", "images": 2000, "by_class": [2] * 1000}
    facts = {"classes": names, "rows": [], "columns": 6, "splits": {"train": split}}
    write_json(folder / "examples.json", facts)
    text = write_run_page(folder).read_text(encoding="utf-8")
    start = text.index("class 999")
    assert (
        text.rindex("<details", 0, start) > text.rindex("</details>", 0, start)
        if ("</details>" in text[:start])
        else "<details" in text[:start]
    )
    assert '<div class="scroll long"' in text[:start]


def test_tips_links_and_rows_that_stay_together():
    rows = [
        [Rich("a", "x/run.html", 'seed 0 "<1>"'), "1"],
        ["published", "2"],
        ["", ""],
        ["b", "3"],
    ]
    text = page("t", [Grid(["h", "n"], rows, follows="published")])
    assert '<a href="x/run.html"><span title="seed 0 &quot;&lt;1&gt;&quot;">a</span></a>' in text
    assert text.count("<tbody>") == 2 and '<tr class="follows"><td class="l n">published' in text
    plain = markdown([Grid(["h", "n"], rows), Facts((("n", "v", "note"),))], None)
    assert "| a " in plain and "- n: **v**, note" in plain


def test_a_picture_is_as_large_as_it_says_and_has_its_description(tmp_path):
    figure = style.figure_of(2.0, 1.0)
    figure.subplots()
    figure.set_label("n = 3 seeds; größer 猫")
    style.save(figure, tmp_path / "p.png", 200)
    text = page("t", [Picture(tmp_path / "p.png", "caption")])
    assert 'alt="caption. n = 3 seeds; größer 猫"' in text
    with Image.open(tmp_path / "p.png") as image:
        width = image.width
    assert f'width="{round(width * 116 / 200)}"' in text


def test_a_comparison_links_its_runs(tmp_path):
    results.vtab(tmp_path, "vpt #1", 60.0, tasks=["dtd"], seeds=(0, 1))
    write_run_page(tmp_path / "dtd" / "vpt #1" / "seed0")
    found = parsed(report(tmp_path))
    assert "dtd/vpt%20%231/seed0/run.html" in found.links
    assert not [link for link in found.links if "seed1" in link]  # which has no page
    tips = [value for _, key, value in found.attributes if key == "title"]
    assert any(tip.startswith("seed 0: 60.00; seed 1: 60.50; 1,000 trainable") for tip in tips)


CLICKS = """
const heads = [...document.querySelectorAll("th button")];
const read = () => [...document.querySelectorAll("tbody tr")].map((r) => r.cells[0].textContent);
const out = [read()];
for (const at of [1, 1, 0]) { heads[at].click(); out.push(read()); }
out.push(document.querySelectorAll("th")[0].getAttribute("aria-sort"));
document.title = JSON.stringify(out);
"""
FITS = "document.title = JSON.stringify([document.documentElement.scrollWidth, innerWidth]);"


def title_of(dom):
    start = dom.index("<title>") + len("<title>")
    return json.loads(dom[start : dom.index("</title>")])


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_in_a_browser(tmp_path):
    rows = [["b", "9.5 ± 1.0 (3)"], ["published", "1"], ["a", "1,234"], ["c", "-"], ["d", "70.1"]]
    blocks = [Heading("t", 1), Grid(["name", "n"], rows, follows="published"), Text("x")]
    (tmp_path / "sorted.html").write_text(page("t", blocks), "utf-8")
    dom, said = in_browser(tmp_path / "sorted.html", tmp_path / "profile", CLICKS)
    *orders, aria = title_of(dom)
    assert orders == [
        ["b", "published", "a", "c", "d"],
        ["a", "d", "b", "published", "c"],
        ["b", "published", "d", "a", "c"],
        ["a", "b", "published", "c", "d"],
    ]
    assert aria == "ascending" and not said
    folder = written(tmp_path / "猫 <b>")
    path = write_run_page(folder)
    # A request for anything would be refused by the page's policy, and said in the console.
    dom, said = in_browser(path, tmp_path / "profile")
    assert not said and "alert(1)" in dom and "<th" in dom and "<button" in dom
    for width in (390, 1280):
        dom, said = in_browser(path, tmp_path / "profile", FITS, width)
        whole, window = title_of(dom)
        assert whole <= window and not said  # tables scroll in boxes of their own, not the page
    bad = tmp_path / "bad.html"
    text = page("t", [Listing("x"), Text("y")])
    bad.write_text(text.replace("<p>y</p>", '<img src="other.png"><script>1</script>'), "utf-8")
    assert "Content Security Policy" in in_browser(bad, tmp_path / "profile")[1]


def test_a_sheet_is_cut_into_rows(tmp_path):
    Image.fromarray(np.repeat(np.array([[10], [200]], np.uint8), 3, 1)).resize((30, 20), 0).save(
        tmp_path / "s.png"
    )
    text = page("t", [Sheet(tmp_path / "s.png", ["dark", "light"])])
    parts = text.split("base64,")[1:]
    found = [base64.b64decode(part.partition('"')[0]) for part in parts]
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in found]
    assert [(image.shape, image.max()) for image in images] == [((10, 30), 10), ((10, 30), 200)]
