"""A run as a program of any batch size: every family and method, preprocessing inside."""

import json
import subprocess
import sys

import jax
import jax.export
import jaxtyping
import numpy as np
import pytest

from tests.helpers.made_runs import FAMILIES, VIT, run_of
from vpjax.core.errors import UserError
from vpjax.runs import export_program
from vpjax.runs.export_check import compare, sample
from vpjax.runs.export_program import program


@pytest.fixture(autouse=True)
def unchecked():
    """Check no annotations: a batch of any size is a symbol there, not a number."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


METHODS = {
    "vpt.VPT": {"num_tokens": 2},
    "vpt.PromptBias": {"num_tokens": 2, "deep": False},
    "vpt_input.Add": {},
    "vpt_input.PrependPixel": {},
    "adapter.Adapter": {"reduction": 2},
    "side.Side": {},
    "sa2vp.SA2VP": {},
    "msvp.MSVP": {},
    "finetune.Linear": {"head_hidden": 1},
}


def of_any_size(run):
    (batch,) = jax.export.symbolic_shape("batch")
    shape = (batch, *run.image_size, 3)
    function = jax.jit(program(run))
    return jax.export.export(function)(jax.ShapeDtypeStruct(shape, np.uint8))


def check(run, model):
    exported, images = of_any_size(run), sample(run.image_size, 3)
    theirs = exported.call(images)
    ours = model(images)["logits"]
    assert compare(run, np.asarray(ours), np.asarray(theirs["logits"])) < 1e-5
    assert np.ptp(ours) > 1e-3
    np.testing.assert_allclose(np.sum(theirs["probabilities"], -1), 1, rtol=1e-5)
    one = exported.call(images[:1])["logits"]
    np.testing.assert_allclose(one, theirs["logits"][:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_free_batch_size(family):
    check(*run_of(*FAMILIES[family]))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_free_batch_size(method):
    check(*run_of("vit.ViT", VIT, method, **METHODS[method]))


def test_several_classes_an_image_have_a_probability_each():
    run, _ = run_of("vit.ViT", VIT, "finetune.Linear")
    run._classes.multilabel = True
    out = of_any_size(run).call(sample(run.image_size, 3))
    expected = 1 / (1 + np.exp(-np.float64(out["logits"])))
    np.testing.assert_allclose(out["probabilities"], expected, rtol=1e-5)


def test_the_file_runs_without_vpjax(tmp_path):
    pytest.importorskip("flatbuffers")
    run, model = run_of("vit.ViT", VIT, "vpt.VPT", num_tokens=2)
    target = tmp_path / "mine.stablehlo"
    assert export_program.export_program(run, target) < 1e-5
    said = json.loads((tmp_path / "mine.stablehlo.json").read_text())
    assert said["classes"] == ["a", "b", "c"]
    assert said["input"]["shape"] == ["batch", 16, 16, 3]
    images = sample(run.image_size, 3)
    np.testing.assert_allclose(
        export_program.reloaded(target, images), model(images)["logits"], rtol=1e-4, atol=1e-5
    )


def test_a_program_that_computes_something_else_is_not_left(monkeypatch, tmp_path):
    pytest.importorskip("flatbuffers")
    run, _ = run_of("vit.ViT", VIT, "finetune.Linear")
    monkeypatch.setattr(export_program, "reloaded", lambda path, images: np.ones((4, 3), "f4"))
    with pytest.raises(UserError, match="computes something else than the run"):
        export_program.export_program(run, tmp_path / "mine.stablehlo")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    run, _ = run_of("vit.ViT", VIT, "finetune.Linear")
    monkeypatch.setattr(export_program.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vpjax\[export\]"):
        export_program.export_program(run, tmp_path / "mine.stablehlo")


def test_vpjax_cannot_be_imported_where_the_file_is_checked():
    start = export_program.ELSEWHERE.partition("import jax")[0]
    done = subprocess.run([sys.executable, "-c", f"{start}\nimport vpjax"], capture_output=True)
    assert done.returncode == 1
