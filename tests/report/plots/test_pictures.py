"""Pictures of runs: after training, by `plot`, with a baseline, and when one cannot be drawn."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import msvp
from tests.helpers.runs import HOME
from vpjax.core.errors import UserError
from vpjax.report.finish import draw_results
from vpjax.report.plots import pictures
from vpjax.report.plots.run import draw_run
from vpjax.runs.experiment import prepare
from vpjax.runs.fit import fit
from vpjax.runs.workdir import read_result


def config(**choices):
    label = ",".join(f"{k}={v}" for k, v in choices.items())
    config = msvp.get_config(f"data=digits,model=cnn,{label}")
    config.backbone.width = 4
    config.train.update(steps=4, batch_size=32, test_best=False)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def finish(experiment, state, place, predictions):
        assert read_result(place)["status"] == "finished"  # a picture can lose nothing
        draw_results(experiment, state, place, predictions)

    fit(config(), folder / "prompted", finish=finish)
    plain = config(prompts="no")
    plain.draw = False
    fit(plain, folder / "baseline", finish=draw_results)
    return folder


def height(path):
    with Image.open(path) as image:
        return image.height


def names(folder):
    return {p.stem for p in folder.glob("*.png")}


def test_a_run_draws_what_it_has_at_its_end(runs):
    own = {
        "curves",
        "prompts",
        "gradcam",
        "confusion",
        "per_class",
        "mistakes",
        "calibration",
        "examples",
    }
    assert names(runs / "prompted") == own
    assert names(runs / "baseline") == {"curves", "examples"}
    for path in (runs / "prompted").glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 10, path


def test_beside_a_baseline_and_one_by_one(runs):
    path = runs / "prompted" / "gradcam.png"
    before = height(path)
    (drawn,) = draw_run(runs / "prompted", image=3, baseline=runs / "baseline", wanted=["gradcam"])
    assert drawn == path and height(path) > 1.4 * before  # a second row


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"wanted": ["gradcm"]}, "Did you mean 'gradcam'"),
        ({"wanted": ["attention"]}, "does not apply to this run"),
        ({"wanted": ["gradcam"], "image": 167}, "has 167, from 0 on"),
        ({"wanted": ["gradcam"], "target": "6.cnv"}, "Did you mean '6.conv'"),
    ],
)
def test_mistakes(runs, choices, message):
    with pytest.raises(UserError, match=message):
        draw_run(runs / "prompted", **choices)


def test_a_picture_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    def broken(subject):
        raise RuntimeError("no paint left\nat all")

    only = {"prompts": pictures.Picture(broken, lambda s: True)}
    monkeypatch.setattr(pictures, "PICTURES", only)
    with caplog.at_level(logging.WARNING, "vpjax"):
        experiment = prepare(config())
        experiment.config.curves = False
        draw_results(experiment, experiment.state, tmp_path)
    assert "prompts.png was not drawn: RuntimeError: no paint left" in caplog.text


def test_learning_curves_that_cannot_be_drawn_are_a_warning(tmp_path, caplog):
    experiment = prepare(config())
    experiment.config.draw = False
    (tmp_path / "metrics.jsonl").touch()
    with caplog.at_level(logging.WARNING, "vpjax"):
        draw_results(experiment, experiment.state, tmp_path)
    assert "curves.png was not drawn: ValueError: nothing to draw" in caplog.text


def test_matplotlib_is_imported_when_a_figure_is_drawn():
    """Training must not wait for it before its first step."""
    modules = "vpjax.report.write, vpjax.report.finish, vpjax.report.plots.run"
    modules += ", vpjax.studies.compare, vpjax.studies.ablate, vpjax.studies.tune"
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME)
    assert done.stdout.strip() == "False", done.stderr
