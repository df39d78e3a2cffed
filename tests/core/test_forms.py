"""What a JSON file of ours must hold."""

import json

import pytest

from tests.helpers import results
from vpjax.core import forms
from vpjax.report.write import report


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400])
def test_numbers_that_overflow_are_damage(tmp_path, value):
    assert "n is" in forms.fault({"n": value}, {"n": int})
    assert forms.fault([value], [forms.NUMBER]) and forms.fault({"n": value}, {"n?": (int, None)})
    assert not forms.fault({"n": 2**63 - 1}, {"n": int})
    (tmp_path / "a.json").write_text(json.dumps({"n": value}))
    with pytest.raises(forms.Damaged, match=r"a\.json is damaged: n is"):
        forms.read(tmp_path / "a.json", {"n": forms.NUMBER})


def test_a_report_of_numbers_that_overflow(tmp_path):
    run = results.write(tmp_path / "a" / "seed0", results.config_of("fgvc", "cub"), 80.0)
    found = json.loads((run / "result.json").read_text())
    for key in ("test_accuracy", "test_loss", "trainable", "percent"):
        (run / "result.json").write_text(json.dumps(found | {key: 10**400}))
        report(tmp_path)
        assert f"{key} is 1000" in (tmp_path / "report.md").read_text().replace("\\_", "_")
