"""Methods folded into their backbones' weights: plain models and files with equal logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import vpjax
from tests.helpers import cases, runs
from tests.helpers.made_runs import FAMILIES, VIT, run_of
from vpjax.core.errors import UserError
from vpjax.methods.finetune import Linear
from vpjax.models.partition import merge, partition
from vpjax.runs import export, export_weights
from vpjax.runs.export_check import sample
from vpjax.runs.merge import outputs

FOLDS = ("lora", "lora_fused_dropout", "dora", "vera", "ia3", "ssf", "repadapter", "layer_norm")
WHOLE = {  # and why they cannot be folded
    "adapter": "activation",
    "adapter_plus": "activation",
    "adapt_former": "activation",
    "houlsby": "activation",
    "noah": "activation",
    "compacter": "activation",
    "convpass": "activations",
    "vpt_deep": "adds tokens",
    "msvp": "adds tokens, images",
    "sa2vp": "adds tokens",
}
KINDS = {
    "lora.LoRA": {"sites": "q+v+fc1", "rank": 2},
    "dora.DoRA": {"sites": "qkv", "rank": 2},
    "vera.VeRA": {"rank": 3},
    "ia3.IA3": {},
    "ssf.SSF": {},
    "repadapter.RepAdapter": {"rank": 2},
    "layer_norm.LayerNorm": {},
}


def moved(backbone, method, **options):
    """Return the model of a case with every trained number changed."""
    parts, random = cases.make(backbone, method, **options), np.random.default_rng(0)
    change = lambda v: jnp.float32(v + random.normal(0, 0.1, v.shape))  # noqa: E731
    trained = {n: change(v) for n, v in parts.trainable.items()}
    return merge(parts.graph, trained, parts.stats, parts.frozen)


def everywhere():
    for backbone, methods in cases.SUITED.items():
        for method in (*FOLDS, "fact_tt", "fact_tk"):
            if method in methods and (method, backbone) not in cases.UNFOLDED:
                quick = (backbone, method) in (("vit", "dora"),)
                yield pytest.param(backbone, method, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("backbone", "method"), list(everywhere()))
def test_the_plain_model_has_equal_logits(backbone, method):
    model = moved(backbone, method)
    images = jax.random.normal(jax.random.key(1), (3, cases.IMAGE, cases.IMAGE, 3))
    plain = vpjax.merge(model)
    ours, theirs = (outputs(m, images)["logits"] for m in (model, plain))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(ours).max())
    assert type(plain.method) is Linear
    assert partition(plain).trainable.keys() == {"method/head/kernel", "method/head/bias"}


@pytest.mark.parametrize("method", WHOLE)
def test_what_cannot_be_folded_says_why(method):
    model = moved("vit", method)
    with pytest.raises(UserError, match=rf"no linear change.*{WHOLE[method]}.*keep the model"):
        vpjax.merge(model)


@pytest.mark.parametrize(("backbone", "last"), [("mae", "fc_norm"), ("clip", "projection")])
def test_a_last_shift_behind_the_norm_cannot_be_folded(backbone, last):
    with pytest.raises(UserError, match=f"SSF's last scale and shift.*as {last} stands between"):
        vpjax.merge(moved(backbone, "ssf"))


def test_a_wrong_fold_is_seen(monkeypatch):
    model, right = moved("vit", "lora"), type(moved("vit", "lora").method).fold
    wrong = lambda self, body: {n: 1.01 * v for n, v in right(self, body).items()}  # noqa: E731
    monkeypatch.setattr(type(model.method), "fold", wrong)
    with pytest.raises(UserError, match=r"features differ by 0\.\d+ of the largest.*allowed"):
        vpjax.merge(model)


def exported(monkeypatch, run, target, form=""):
    monkeypatch.setattr(export, "load_run", lambda folder, **how: run)
    monkeypatch.setattr(export_weights.importlib.util, "find_spec", lambda name: None)
    return export.export_run(target.parent, target, form)


def loaded(target, name, options, run):
    """Return logits of the run's images by a linear probe on the file, with its head."""
    images = sample(run.image_size, 3)
    if target.suffix == ".npz":
        names = np.load(target).files
        head = {n: np.load(target)[f"head/{n}"] for n in ("kernel", "bias")}
        assert "embedding/kernel" in names
    elif target.is_dir():
        file = safetensors.numpy.load_file(target / "model.safetensors")
        head = {"kernel": file["head.weight"].T, "bias": file["head.bias"]}
    else:
        file = safetensors.numpy.load_file(target)
        head = {n: file[f"head/{n}"] for n in ("kernel", "bias")}
    body = vpjax.load_backbone(name, str(target), preset="imagenet", **options)
    features = jax.jit(lambda body, x: body(x))(body, body.preprocess(images))
    return features @ head["kernel"] + head["bias"], images


SLOW = ("vera.VeRA", "ia3.IA3", "repadapter.RepAdapter", "layer_norm.LayerNorm")
FORMS = (("mine.npz", ""), ("mine.safetensors", ""), ("mine", "timm"))


@pytest.mark.parametrize("target", FORMS, ids=["google", "vpjax", "timm"])
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in KINDS]
)
def test_a_file_has_what_was_folded_and_the_head(monkeypatch, tmp_path, method, target):
    run, model = run_of("vit.ViT", VIT, method, **KINDS[method])
    run.config.backbone.weights = ""  # no file that timm's names are taken from
    target = exported(monkeypatch, run, tmp_path / target[0], target[1])
    found, images = loaded(target, "vit.ViT", VIT, run)
    ours = outputs(model, model.backbone.preprocess(images))["logits"]
    np.testing.assert_allclose(found, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "convnext", "mae"])
def test_other_families_are_written_folded(monkeypatch, tmp_path, family):
    name, options = FAMILIES[family]
    run, model = run_of(name, options, "lora.LoRA", sites="fc1+fc2", rank=2)
    target = exported(monkeypatch, run, tmp_path / "mine.safetensors")
    found, images = loaded(target, name, options, run)
    ours = outputs(model, model.backbone.preprocess(images))["logits"]
    np.testing.assert_allclose(found, ours, atol=1e-4 * np.abs(ours).max())


ADAPTED = "adapter.Adapter+layer_norm.LayerNorm"  # trains norms too, as Houlsby's


@pytest.mark.parametrize("method", ["bottleneck.Houlsby", ADAPTED, "convpass.Convpass", "vpt.VPT"])
@pytest.mark.parametrize("target", FORMS, ids=["google", "vpjax", "timm"])
def test_nothing_is_written_of_what_cannot_be_folded(monkeypatch, tmp_path, method, target):
    run, _ = run_of("vit.ViT", VIT, method)
    with pytest.raises(UserError, match="cannot be folded into the backbone's weights"):
        exported(monkeypatch, run, tmp_path / target[0], target[1])
    assert not list(tmp_path.iterdir())


def test_changes_that_are_zero_are_not_written(monkeypatch, tmp_path):
    run, _ = run_of("vit.ViT", VIT, "lora.LoRA")
    for values in (run.parts.trainable, run._state.trainable):
        values.update({n: 0 * v for n, v in values.items() if n.endswith("/b")})
    with pytest.raises(UserError, match=r"still first\.npz\. What was learnt changes no weight"):
        exported(monkeypatch, run, tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_in_bfloat16_is_folded_in_float32(tmp_path):
    folder, target = tmp_path / "run", tmp_path / "mine.npz"
    words = ("--config", "configs/digits_baselines.py:lora", f"--workdir={folder}")
    done = runs.command(*words, "--config.train.steps=40", "--config.dtype=bfloat16")
    assert done.returncode == 0, done.stderr_text
    done = runs.command("export", f"--workdir={folder}", str(target))
    assert done.returncode == 0, done.stderr_text
    run, body = vpjax.load_run(folder), vpjax.load_backbone(str(target), preset="digits")
    kernel = body.layers[0].attn.query.kernel[...]
    assert kernel.dtype == jnp.float32
    assert (kernel != kernel.astype(jnp.bfloat16).astype(jnp.float32)).any()
    images = sample(run.image_size, 3)
    ours = run.outputs(images)["logits"]
    head = {n: np.load(target)[f"head/{n}"] for n in ("kernel", "bias")}
    theirs = np.asarray(body(body.preprocess(images))) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(theirs, ours, atol=3e-2 * np.abs(ours).max())
    merged = vpjax.merge(run.model)
    again = outputs(merged, merged.backbone.preprocess(images))["logits"]
    np.testing.assert_allclose(again, ours, atol=3e-2 * np.abs(ours).max())
