"""What `export` writes: every family comes back with the same features, or is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vpjax
from tests.helpers.made_runs import FAMILIES, VIT, run_of
from vpjax.core.errors import UserError
from vpjax.runs import export


def exported(monkeypatch, run, target):
    monkeypatch.setattr(export, "load_run", lambda folder, **how: run)
    return export.export_run(target.parent, target)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_backbone_comes_back(monkeypatch, tmp_path, family):
    name, options = FAMILIES[family]
    run, model = run_of(name, options)
    file = exported(monkeypatch, run, tmp_path / "mine.safetensors")
    back = vpjax.load_backbone(name, str(file), **options)
    size = back.image_size
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    call = jax.jit(lambda backbone, x: backbone(x), static_argnums=())
    ours, theirs = (np.asarray(call(b, images)) for b in (back, model.backbone))
    np.testing.assert_array_equal(ours, theirs)
    assert np.ptp(ours) > 0.01
    if back.batch_norm:
        assert jnp.abs(back.patch_norm.mean[...]).min() > 0.05


@pytest.mark.parametrize("method", ["vpt.VPT", "finetune.Linear", "adapter.Adapter"])
def test_a_backbone_that_has_not_changed_is_not_written(monkeypatch, tmp_path, method):
    run, _ = run_of("vit.ViT", VIT, method)
    with pytest.raises(UserError, match=r"trained nothing of its backbone.* still first\.npz"):
        exported(monkeypatch, run, tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())


def test_what_trained_beside_the_backbone_is_named(monkeypatch, tmp_path, caplog):
    run, _ = run_of("vit.ViT", VIT, "vpt.PromptBias", num_tokens=2)
    exported(monkeypatch, run, tmp_path / "mine.npz")
    assert (
        "the file has not what vpt.PromptBias trained beside the backbone (prompts)" in caplog.text
    )


@pytest.mark.parametrize("family", ["mae", "swin", "resnet"])
def test_google_s_names_are_for_plain_vits(monkeypatch, tmp_path, family):
    run, _ = run_of(*FAMILIES[family])
    with pytest.raises(UserError, match="Give a target that ends in"):
        exported(monkeypatch, run, tmp_path / "mine.npz")


def test_a_file_that_computes_something_else_is_not_left(monkeypatch, tmp_path):
    run, _ = run_of("vit.ViT", VIT)
    save = export.google.save
    wrong = lambda file, arrays: save(file, arrays | {"norm/bias": arrays["norm/bias"] + 1})  # noqa: E731
    monkeypatch.setattr(export.google, "save", wrong)
    with pytest.raises(UserError, match="computes something else than the run"):
        exported(monkeypatch, run, tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())


def test_the_format_is_said_by_the_ending_or_asked_for(tmp_path):
    assert export.format_of(tmp_path / "a.stablehlo", "") == "stablehlo"
    assert export.format_of(tmp_path / "a", "timm") == "timm"
    for name, form, says in (
        ("a", "", "Give --format: google"),
        ("a.npz", "tim", "Did you mean 'timm'"),
        ("a.bin", "google", r"ends in \.npz, not a\.bin"),
    ):
        with pytest.raises(UserError, match=says):
            export.format_of(tmp_path / name, form)
