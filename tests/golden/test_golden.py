"""The recorded numbers of the published implementations; the cases in tests/golden/data.

`tiers.json` of a folder names the cases that every test run checks, the smallest of each kind; all
others run with `-m slow`, as do kinds that take long (whole SA2VP models, both towers of CLIP, the
batches of MoP).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden import __main__ as command
from tests.golden.runner import cases, check

FOLDERS = sorted(p for p in (Path(__file__).parent / "data").iterdir() if p.is_dir())
PATHS = [path for folder in FOLDERS for path in cases(folder)]


def tier(path):
    """Return "default" or "slow", the tier that is stored beside a case."""
    stored = path.parent / "tiers.json"
    return json.loads(stored.read_text()).get(path.stem, "slow")


MARKS = {"default": [], "slow": [pytest.mark.slow]}
MARKED = [pytest.param(p, marks=MARKS[tier(p)], id=f"{p.parent.name}-{p.stem}") for p in PATHS]


@pytest.mark.parametrize("path", MARKED)
def test_case(path):
    good, text = check(path)
    assert good, text


def test_every_tier_belongs_to_a_case():
    stems = {(p.parent, p.stem) for p in PATHS}
    for folder in FOLDERS:
        for name in json.loads((folder / "tiers.json").read_text()):
            assert (folder, name) in stems


def changed(tmp_path, path, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {name.replace("__", "/"): change(arrays) for name, change in changes.items()}
    (tmp_path / "backbone_vit_a.npz").write_bytes((path.parent / "backbone_vit_a.npz").read_bytes())
    np.savez(tmp_path / path.name, **arrays)
    return tmp_path / path.name


@pytest.mark.parametrize("key", ["out__logits", "loss", "grad__enc.transformer.prompt_embeddings"])
def test_a_wrong_number_fails(tmp_path, key):
    path = next(p for p in PATHS if p.stem == "vit_deep")
    wrong = changed(tmp_path, path, **{key: lambda a: a[key.replace("__", "/")] + 1e-3})
    good, _ = check(wrong)
    assert not good


def test_an_unknown_case_fails_and_is_counted(tmp_path, capsys, monkeypatch):
    path = next(p for p in PATHS if p.stem == "vit_deep")
    text = str(np.load(path)["meta"]).replace('"prompt"', '"telepathy"')
    changed(tmp_path, path, meta=lambda a: np.array(text))
    monkeypatch.setattr("sys.argv", ["golden", str(tmp_path)])
    assert command.main() == 1
    out = capsys.readouterr().out
    assert "not understood: transfer type telepathy" in out
    assert out.endswith("0 passed, 1 failed\n")


def test_a_passing_folder_exits_with_zero(capsys, monkeypatch):
    path = next(p for p in PATHS if p.stem == "vit_linear")
    monkeypatch.setattr("sys.argv", ["golden", str(path.parent), "--only", path.stem])
    assert command.main() == 0
    assert capsys.readouterr().out.endswith("1 passed, 0 failed\n")
