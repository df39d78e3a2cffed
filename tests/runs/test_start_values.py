"""What a method makes from training images: once, when a run begins, and kept from then on."""

import shutil

import numpy as np
import pytest

import vpjax
from tests.helpers.runs import config, digests, newest
from tests.runs.test_fit import stop_after
from vpjax.core.errors import UserError
from vpjax.data import open_source
from vpjax.runs import config as configs
from vpjax.runs import start_values
from vpjax.runs.experiment import prepare
from vpjax.runs.fit import fit
from vpjax.runs.model_file import read_arrays
from vpjax.train.signals import Stopped

SPT = {"name": "spt.SPT", "num_tokens": 4, "sample_images": 16}
DAVPT = {"name": "da_vpt.DAVPT", "num_tokens": 4, "num_proxies": 2, "regroup_from": 0}
MADE = {"spt": (SPT, "method/prompts/3"), "da_vpt": (DAVPT, "method/groups/of_class")}


def changed(method, **sections):
    return configs.merged(config(), {"method": method, **sections})


def begun(config):
    """The values before the first step, and those that the model was built with."""
    experiment = prepare(config)
    state = start_values.with_start_values(experiment)
    both = [s.trainable | s.stats for s in (state, experiment.state)]
    return tuple({n: np.asarray(v) for n, v in values.items()} for values in both)


@pytest.fixture
def made(monkeypatch):
    """How often something was made."""
    times = []
    load = start_values.Loader
    monkeypatch.setattr(start_values, "Loader", lambda *a, **k: times.append(1) or load(*a, **k))
    return times


@pytest.mark.parametrize("name", MADE)
def test_made_once_and_the_same_however_a_run_is_stopped(name, tmp_path, monkeypatch, made):
    method, array = MADE[name]
    fit(changed(method), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stopped, match="step 5 of 12"):
            fit(changed(method), tmp_path / "stopped")
    assert len(made) == 2
    fit(changed(method), tmp_path / "stopped")
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    shutil.move(tmp_path / "whole", tmp_path / "elsewhere")
    run = vpjax.load_run(tmp_path / "elsewhere")
    alone = read_arrays(run.save(tmp_path / "alone.safetensors"))
    np.testing.assert_array_equal(alone[array], (run.parts.trainable | run.parts.stats)[array])
    assert alone["method/begun"] == 1
    assert len(made) == 2  # neither going on nor loading made anything


@pytest.mark.parametrize("name", MADE)
def test_devices_and_shards_make_the_same(name):
    method, array = MADE[name]
    one, built = begun(changed(method, mesh={"data": 1}))
    eight, _ = begun(changed(method, mesh={"data": 8, "fsdp": True}))
    assert (one["method/begun"], built["method/begun"]) == (1, 0)
    assert not np.array_equal(one[array], built[array])
    np.testing.assert_allclose(one[array], eight[array], atol=1e-5)
    other, _ = begun(changed(method, seed=1))
    assert name == "da_vpt" or not np.array_equal(one[array], other[array])


@pytest.fixture(scope="module")
def arrays():
    examples = open_source("digits/high", "train[:60]").__getitems__(range(60))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


def test_a_given_model_begins_from_its_images_and_keeps_what_it_learnt(arrays, tmp_path, made):
    backbone = vpjax.load_backbone("digits_vit")
    options = {k: v for k, v in SPT.items() if k != "name"}
    model = vpjax.create_model(backbone, "spt.SPT", num_classes=5, **options)
    quick = {"train": arrays, "batch_size": 20, "lr": 1e-9}
    first = vpjax.fit(model, **quick, steps=1, workdir=tmp_path / "first")
    assert len(made) == 1
    random, tokens = (m.method.prompts["0"][...] for m in (model, first.model))
    images = backbone.preprocess(arrays[0])
    patches = np.asarray(backbone.patch_embed(images)).reshape(-1, tokens.shape[1])
    far = lambda rows: [np.abs(patches - row).max(1).min() for row in np.asarray(rows)]  # noqa: E731
    assert max(far(tokens)) < 1e-4 < min(far(random))
    again = vpjax.fit(model, **quick, steps=1, workdir=tmp_path / "again")
    np.testing.assert_array_equal(again.model.method.prompts["0"][...], tokens)


def test_another_run_as_the_start_brings_its_own(tmp_path, made):
    fit(changed(SPT), tmp_path / "one")
    two = changed(SPT, train={"start": str(tmp_path / "one"), "steps": 1}, optim={"lr": 1e-9})
    fit(two, tmp_path / "two")
    assert len(made) == 1
    arrays = [read_arrays(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    np.testing.assert_allclose(*(a["method/prompts/2"] for a in arrays), atol=1e-6)


def test_what_no_run_would_save_is_not_made(tmp_path):
    frozen = changed(SPT, train={"trainable": "method/head/.*"})
    with pytest.raises(UserError, match="leaves it out, so no run would save it"):
        fit(frozen, tmp_path)


def test_options_that_are_lists_are_found_again(tmp_path):
    """Of a checkpoint, which holds JSON."""
    fit(changed({"name": "e2vpt.E2VPT", "num_tokens": 4, "pruned_tokens": (1, 3)}), tmp_path)
    assert newest(tmp_path).is_dir()
    assert vpjax.load_run(tmp_path).config.method.pruned_tokens == (1, 3)
