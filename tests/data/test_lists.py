"""Lists of files as spreadsheets, Windows and other programs write them, and what is refused."""

import json
import logging

import pytest

from tests.data.test_folder import picture, seen
from vpjax.core.errors import UserError
from vpjax.data import open_source


def files(root, n=6):
    for i in range(n):
        picture(root / "images" / f"{i}.png", i)


def rows(labels):
    return "".join(f"images/{i}.png,{label}\n" for i, label in enumerate(labels))


def opened(root, text, split="train", coding="utf-8"):
    files(root)
    (root / "l.csv").write_bytes(text.encode(coding))
    return open_source(f"csv:{root}/l.csv", split)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_encodings_and_separators(tmp_path, coding, between):
    text = ("path,label\r\n" + rows(["Motte – groß", "b", "ö"])).replace(",", between)
    source = opened(tmp_path, text, coding=coding)
    assert source.classes == ("Motte – groß", "b", "ö") and len(source) == 3


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("between", [" ", "\t", ",", ", ", ";"])
def test_text_lists(tmp_path, coding, between):
    picture(tmp_path / "images" / "a ö.png")
    picture(tmp_path / "images" / "b.png")
    text = f"images\\a ö.png{between}1\r\nimages/b.png{between}0\r\n"
    (tmp_path / "train800.txt").write_bytes(text.encode(coding))
    source = open_source(f"vtab1k:{tmp_path}", "train800")
    assert dict(zip(source.records.names, source.labels().tolist(), strict=True)) == {
        "images/a ö.png": 1,
        "images/b.png": 0,
    }


@pytest.mark.parametrize(
    "start",
    ["images\\", ".\\images\\", "./images/", "C:\\Users\\me\\set\\images\\", "/gone/images/"],
)
def test_paths_of_other_systems(tmp_path, start):
    source = opened(tmp_path, "".join(f"{start}{i}.png,{'ab'[i % 2]}\n" for i in range(4)))
    assert sorted(source.records.names) == [f"images/{i}.png" for i in range(4)]


def test_a_slice_does_not_depend_on_where_the_list_lies(tmp_path):
    halves = []
    for form in ("{i}.png", "images/{i}.png", "{root}/images/{i}.png", "images\\{i}.png"):
        for place in ("x", "y/z"):
            root = tmp_path / place
            files(root, 20)
            text = "".join(f"{form},{'ab'[i % 2]}\n".format(i=i, root=root) for i in range(20))
            (root / "l.csv").write_text(text)
            halves.append(open_source(f"csv:{root}/l.csv", "train[:50%]").records.names)
    assert all(half == halves[0] for half in halves)
    (tmp_path / "l.csv").write_text(
        "".join(f"{tmp_path}/x/images/{i}.png,{i}\n" for i in range(20))
    )
    (tmp_path / "far").mkdir()
    (tmp_path / "l.csv").rename(tmp_path / "far" / "l.csv")  # the photos lie elsewhere
    with pytest.raises(UserError, match=r"lies outside of .*/far\. If the list is your own, .*dir"):
        open_source(f"csv:{tmp_path}/far/l.csv", "train")
    assert len(open_source("csv:far/l.csv", "train", tmp_path)[0]["image"]) == 5


@pytest.mark.parametrize("bad", ["-1", "-1.0", "nan", "NaN", "null", "N/A", "2.5", "-7"])
def test_what_is_no_label(tmp_path, bad):
    with pytest.raises(UserError, match=r"l\.csv, line 4: .*labels are names, or whole numbers"):
        opened(tmp_path, "path,label\n" + rows(["0", "10", bad]))
    (tmp_path / "train.json").write_text(json.dumps({"0.png": 3, "1.png": bad}))
    with pytest.raises(UserError, match=r"train\.json, key '1\.png'"):
        open_source(f"fgvc:{tmp_path}", "train")
    (tmp_path / "train800.txt").write_text(f"images/0.png 1\n\nimages/1.png {bad}\n")
    with pytest.raises(UserError, match=r"train800\.txt, line 3: expected 'file label'"):
        open_source(f"vtab1k:{tmp_path}", "train800")
    path = tmp_path / "split_zhou.json"
    path.write_text(json.dumps({"train": [["0.png", 0, "a"], ["1.png", bad, "b"]]}))
    with pytest.raises(UserError, match=r"train\[1\]: label|train\[1\]: '2\.5' is no class"):
        open_source(f"zhou:{path}", "train")


def test_numbers_that_a_spreadsheet_made_fractions_of(tmp_path):
    assert opened(tmp_path, rows(["10.0", "9.0", "3.0"])).classes == ("3", "9", "10")


def test_huge_labels(tmp_path):
    assert opened(tmp_path, rows(["20260101", "7"])).classes == ("7", "20260101")  # ids
    (tmp_path / "train800.txt").write_text("images/0.png 20260101\n")
    with pytest.raises(UserError, match="line 1: .*would make 20,260,102 classes"):
        open_source(f"vtab1k:{tmp_path}", "train800")


def test_a_column_for_each_class(tmp_path):
    text = "image,cat,dog\nimages/0.png,1,0\nimages/1.png,0.0,1.0\nimages/2.png,0,1\n"
    assert seen(opened(tmp_path, text)) == {"cat": 1, "dog": 2}
    with pytest.raises(UserError, match="line 5: 2 classes are 1 .cat, dog.*from_arrays"):
        opened(tmp_path, text + "images/3.png,1,1\n")
    with pytest.raises(UserError, match="line 5: 0 classes are 1 .none"):
        opened(tmp_path, text + "images/3.png,0,0\n")
    with pytest.raises(UserError, match="line 5: column 'dog' holds '-1'"):
        opened(tmp_path, text + "images/3.png,1,-1\n")


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ("photo_id,species_id", "unknown columns photo_id, species_id. Call them path, label"),
        ("path,age", "has no column 'label'; its columns: path, age"),
        ("species,label", "has no column 'path'; its columns: species, label. Expected one of"),
    ],
)
def test_unknown_columns(tmp_path, head, match):
    with pytest.raises(UserError, match=match):
        opened(tmp_path, f"{head}\n" + rows(["4", "12"]))


def test_more_columns_need_a_header(tmp_path):
    with pytest.raises(UserError, match="line 1: 4 columns and no header"):
        opened(tmp_path, "images/0.png,a,7,8\nimages/1.png,b,7,8\n")
    text = ",Split,Filename,Width,Label\n0,TRAIN,images/0.png,7,a\n1,train,images/1.png,7,b\n"
    assert seen(opened(tmp_path, text)) == {"a": 1, "b": 1}


def test_missing_files_are_counted_with_the_place_of_most(tmp_path):
    text = "gone.png,a\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(5))
    with pytest.raises(
        UserError, match=r"1 of 6 files are not in .*images, .*gone\.png \(line 1\)"
    ):
        opened(tmp_path, text)
    with pytest.raises(UserError, match=r"1 of 2 .*There is images/1\.png"):
        opened(tmp_path, "images/0.png,a\nimages/1.PNG,b\n")


def test_a_file_twice(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    source = opened(tmp_path, rows(["a", "b"]) + ".\\images\\0.png,a\n")
    assert len(source) == 2 and "images/0.png, line 3" in caplog.text
    with pytest.raises(
        UserError, match=r"images/1.png has class 'b' in line 2 and .*'a' in line 3"
    ):
        opened(tmp_path, rows(["a", "b"]) + "images/1.png,a\n")
    (tmp_path / "train.json").write_text('{"0.png": 1, "1.png": 2, "0.png": 2}')
    with pytest.raises(UserError, match=r"train.json: '0.png' occurs twice, with 1 and 2"):
        open_source(f"fgvc:{tmp_path}", "train")
    (tmp_path / "train800.txt").write_text("images/0.png 1\nimages/1.png 0\nimages/0.png 0\n")
    with pytest.raises(
        UserError, match=r"train800.txt, line 1 and class 0 in train800.txt, line 3"
    ):
        open_source(f"vtab1k:{tmp_path}", "train800")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"train": [["0.png", 0, "a"], ["1.png", 0, "b"]]}', r"train\[1\]: label 0 is called 'b'"),
        ('{"train": [["0.png", 0, null]]}', r"does not hold .* train\[0\] is"),
        ('{"train": {"0.png": 0}}', "'train' holds a dict"),
        ('{"train": [["0.png", 0, "a"],\n', r"no whole JSON file: .*line 2"),
    ],
)
def test_few_shot_faults(tmp_path, content, match):
    files(tmp_path)
    (tmp_path / "z.json").write_text(content)
    with pytest.raises(UserError, match=match):
        open_source(f"zhou:{tmp_path}/z.json", "train")


def test_ids_of_json_lists_may_be_text(tmp_path):
    files(tmp_path)
    (tmp_path / "train.json").write_text('{"0.png": "9", "1.png": 10}')
    (tmp_path / "test.json").write_text('{"2.png": 9}')
    assert open_source(f"fgvc:{tmp_path}", "test").labels().tolist() == [0]


def test_binary_files_are_no_lists(tmp_path):
    picture(tmp_path / "x.png")
    with pytest.raises(UserError, match="is no text in UTF-8, UTF-16 or Windows-1252"):
        (tmp_path / "l.csv").write_bytes(b"\x81\x8d\xff" * 10)
        open_source(f"csv:{tmp_path}/l.csv", "train")


@pytest.mark.parametrize(("one", "other"), [("1", "01"), ("7", "007"), ("0", "00")])
def test_one_number_in_two_spellings(tmp_path, one, other):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "l.csv").write_text(f"path,label\na.png,{one}\nb.png,{other}\n")
    with pytest.raises(UserError, match="one number in two spellings"):
        open_source(f"csv:{tmp_path / 'l.csv'}", "train")


def test_classes_that_differ_in_case_are_told(tmp_path, caplog):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "l.csv").write_text("path,label\na.png,Cat\nb.png,cat\nc.png,dog\n")
    with caplog.at_level(logging.WARNING):
        assert len(open_source(f"csv:{tmp_path / 'l.csv'}", "train").classes) == 3
    assert "'Cat' and 'cat' differ in case only" in caplog.text


@pytest.mark.parametrize("path", ["/nowhere/a.png", "/q.png", "http://example.org/a.png"])
def test_files_that_are_elsewhere(tmp_path, path):
    picture(tmp_path / "b.png")
    (tmp_path / "l.csv").write_text(f"path,label\n{path},cat\nb.png,dog\n")
    with pytest.raises(UserError, match=r"1 of 2 files are not in .*\(line 2\)"):
        open_source(f"csv:{tmp_path / 'l.csv'}", "train")


def test_text_with_a_nul(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "l.csv").write_bytes(b"path,label\na.png,c\0at\n")
    with pytest.raises(UserError, match="NUL"):
        open_source(f"csv:{tmp_path / 'l.csv'}", "train")
