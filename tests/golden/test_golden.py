"""The recorded numbers of the published implementations; the cases in tests/golden/data."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.golden import __main__ as command
from tests.golden.runner import cases, check

FOLDERS = sorted(p for p in (Path(__file__).parent / "data").iterdir() if p.is_dir())
PATHS = [path for folder in FOLDERS for path in cases(folder)]
# Left to `-m slow`: each differs in an option from one that is not.
ALIKE = (
    r"(mae|moco)_(adapter|bias|partial1|shallow|deep_pool_prompt)|solver_(adam|sgd)"
    r"|swin_(bias|linear|partial2|prompt_shallow_b1)|convnext_partial0"
    r"|vit_(add|add_deep|cls|deep_pool_img|end2end|linear_mlp3|pad_n3_cropped|partial1"
    r"|partial_deep_k2|prepend_pixel_imgnettransform|prompt_bias|prompt_noupdate|shallow_n100"
    r"|shallow_pool_imgprompt|shallow_project|side)"
    r"|train_resnet18_adam_cosine|a_loop_F|swin_(dropmask|add1|prompt_shallow)|vit_loop_g4|b_PF"
    r"|vit_(dropmask|cls_prompt|linear|deep_shared)|swin_partial1|resnet(18_trainbn|_pad)|mae_linear"
    r"|mop_zero_init|prompting_add_g|b_adapt"
)
SLOW = [[pytest.mark.slow] if re.fullmatch(ALIKE, p.stem) else [] for p in PATHS]
MARKED = [pytest.param(p, marks=m, id=p.stem) for p, m in zip(PATHS, SLOW, strict=True)]


@pytest.mark.parametrize("path", MARKED)
def test_case(path):
    good, text = check(path)
    assert good, text


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
