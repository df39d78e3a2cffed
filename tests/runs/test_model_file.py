"""model.safetensors: alone, in a folder with two others, and damaged or of something else."""

import shutil

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.runs import model_file
from vpjax.runs.fit import fit
from vpjax.runs.run import load_run
from vpjax.weights.licence import licence_note

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of prompts on the embedded digits."""
    folder = tmp_path_factory.mktemp("run")
    fit(runs.config(), folder)
    return folder


@pytest.fixture(scope="module")
def expected(run):
    return load_run(run).predict(IMAGES).probabilities


def test_the_file_alone_is_enough(run, expected, tmp_path):
    alone = shutil.copy(run / model_file.FILE, tmp_path / "digits.safetensors")
    found = load_run(alone)
    np.testing.assert_array_equal(found.predict(IMAGES).probabilities, expected)
    assert found.classes == ("5", "6", "7", "8", "9")
    assert found.result["test_accuracy"] == runs.result(run)["test_accuracy"]
    assert "test accuracy" in repr(found)


def test_a_folder_without_checkpoints_is_evaluated_as_before(run, expected, tmp_path):
    for name in (model_file.FILE, "config.json", "classes.json"):
        shutil.copy(run / name, tmp_path / name)
    found = load_run(tmp_path)
    np.testing.assert_array_equal(found.predict(IMAGES).probabilities, expected)
    assert found.evaluate()["test_accuracy"] == runs.result(run)["test_accuracy"]


def test_the_metadata_say_what_it_is(run):
    with safe_open(run / model_file.FILE, "numpy") as file:
        said, names = file.metadata(), set(file.keys())
    assert names == {"method/head/bias", "method/head/kernel"} | {
        f"method/prompts/{i}" for i in range(4)
    }
    assert (said["method"], said["backbone"], said["weights"]) == (
        *("vpt.VPT", "vit.ViT", "digits_vit"),
    )
    result = runs.result(run)
    assert said["weights_sha256"] == result["weights"]["sha256"]
    facts = model_file.read_facts(run / model_file.FILE)
    assert facts["metrics"]["test_loss"] == result["test_loss"]
    assert facts["method_options"]["num_tokens"] == 8
    assert facts["preset"] == "digits" and "Apache-2.0" in facts["licence"]


def test_running_averages_are_part_of_it(tmp_path):
    config = runs.config("full", train={"steps": 2})
    config.backbone.update(weights="")
    config.method.update(head_hidden=1)
    fit(config, tmp_path)
    arrays = model_file.read_arrays(tmp_path / model_file.FILE)
    assert arrays["method/head/hidden/0/norm/mean"].any()
    before = load_run(tmp_path).predict(IMAGES).probabilities
    after = load_run(tmp_path / model_file.FILE).predict(IMAGES).probabilities
    np.testing.assert_array_equal(before, after)


def rewrite(path, arrays=None, **facts):
    """Write the file anew with other arrays or metadata, as another program might."""
    with safe_open(path, "numpy") as file:
        said, old = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    said |= facts
    said[model_file.SEAL] = model_file._seal(said)
    safetensors.numpy.save_file(arrays or old, path, said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"preset": "inception"}, "preset: inception there, digits now"),
        ({"classes": '["5", "6", "7", "8", "10"]'}, "only there: 10"),
        ({"format": "vpjax-run-9"}, "'vpjax-run-9', and 'vpjax-run-1' was expected"),
        ({"metrics": "{"}, "metadata are no JSON"),
    ],
)
def test_a_file_of_something_else_is_refused(run, tmp_path, change, says):
    path = shutil.copy(run / model_file.FILE, tmp_path / "a.safetensors")
    rewrite(path, **change)
    with pytest.raises(UserError, match=says):
        load_run(path)


def test_changed_numbers_are_noticed(run, tmp_path):
    path = shutil.copy(run / model_file.FILE, tmp_path / "a.safetensors")
    arrays = model_file.read_arrays(path)
    arrays["method/head/bias"] = arrays["method/head/bias"] + 1
    rewrite(path, arrays)
    with pytest.raises(UserError, match="sha256"):
        load_run(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_run(path)


def test_weights_of_a_backbone_are_told_apart(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"blocks.0.norm1.weight": np.ones(3, np.float32)}, path)
    with pytest.raises(UserError, match="load_backbone"):
        load_run(path)


def test_the_licence_is_that_of_the_card_beside_the_weights(tmp_path):
    weights = tmp_path / "model.safetensors"
    assert "not recorded; see the page of mine" in licence_note("mine", weights)
    (tmp_path / "README.md").write_text("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\n# Model\n")
    assert "cc-by-nc-4.0" in licence_note("mine", weights)
    (tmp_path / "README.md").write_text("# license: none of these lines\n")
    assert "not recorded" in licence_note("mine", weights)
    assert licence_note("", None) == "no weights of others"


def test_another_run_begins_with_it(run, tmp_path):
    alone = shutil.copy(run / model_file.FILE, tmp_path / "digits.safetensors")
    config = runs.config(train={"steps": 1, "start": str(alone)})
    config.optim.update(lr=0.0)
    result = fit(config, tmp_path / "second")
    assert result["start"] == {"run": str(alone), "step": 12, "left_out": []}
    before, after = (
        model_file.read_arrays(f) for f in (alone, tmp_path / "second" / model_file.FILE)
    )
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_run_is_no_backbone(run):
    from vpjax import load_backbone

    with pytest.raises(UserError, match="load_run"):
        load_backbone(str(run / model_file.FILE))


def test_a_file_evaluates_data_that_it_is_given(run):
    found = load_run(run / model_file.FILE)
    with pytest.raises(UserError, match="Give data"):
        found.evaluate()
    numbers = found.evaluate((IMAGES, np.array([0, 1, 2, 3, 4])))
    assert numbers["count"] == 5
