"""A run and its data belong together: what may change afterwards, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from tests.helpers.runs import command, config, newest, result
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import recorded
from vpjax.runs.fit import fit
from vpjax.runs.restore import differing_classes
from vpjax.runs.run import load_run, restored_run
from vpjax.runs.scores import evaluate_run
from vpjax.runs.summary import log_comparison
from vpjax.train.checkpoint import sealed, unsealed
from vpjax.weights.download import fetch

COLOURS = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cow": (40, 40, 200)}
COUNTS = {"train": 8, "val": 4, "test": 6}


def write_photos(root, counts=COUNTS, classes=COLOURS):
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = np.array(COLOURS[name]) + rng.normal(0, 20, (8, 8, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained run, and its photos."""
    place = tmp_path_factory.mktemp("recorded")
    write_photos(place / "photos")
    weights = shutil.copy(fetch("digits_vit"), place / "digits_vit.npz")
    data = {"name": f"folder:{place / 'photos'}", "train": "train", "val": "val", "test": "test"}
    chosen = config(data=data | {"eval_batch_size": 8}, train={"batch_size": 8})
    chosen.backbone.weights = str(weights)
    fit(chosen, place / "run")
    return place


@pytest.fixture
def place(tmp_path, made):
    """The same, to be changed."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "photos", tmp_path / "photos")
    return tmp_path


def at(place, **keys):
    """The run's config, with its photos where they are now."""
    found = recorded.load(place / "run")
    found.data.name = f"folder:{place / 'photos'}"
    found.data.update(keys)
    return found


def renamed(place, old, new):
    for split in COUNTS:
        (place / "photos" / split / old).rename(place / "photos" / split / new)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: renamed(place, "ant", "zebra"), ["only there: ant", "only now: zebra"]),
        (
            lambda place: [
                (place / "photos" / split / "dog").mkdir()
                or shutil.copy(
                    place / "photos" / split / "ant" / "0.png", place / "photos" / split / "dog"
                )
                for split in COUNTS
            ],
            ["3 there, 4 now", "only now: dog"],
        ),
        (
            lambda place: [shutil.rmtree(place / "photos" / split / "bee") for split in COUNTS],
            ["3 there, 2 now", "only there: bee"],
        ),
    ],
    ids=["renamed", "added", "removed"],
)
def test_other_classes_are_refused_and_nothing_is_changed(place, change, said):
    change(place)
    before = contents(place / "run")
    with pytest.raises(UserError, match="was trained on something else") as error:
        evaluate_run(place / "run", at(place))
    assert all(text in str(error.value) for text in said)
    assert "damaged" not in str(error.value) and "delete" not in str(error.value)
    assert contents(place / "run") == before


def test_other_test_images_are_not_compared(place, caplog):
    before = result(place / "run")
    there, other = place / "photos" / "test" / "ant" / "0.png", place / "photos" / "train" / "ant"
    caplog.set_level("INFO", logger="vpjax")
    log_comparison(evaluate_run(place / "run", at(place)), before)
    assert "equal to the recorded" in caplog.text
    shutil.copy(other / "3.png", there)
    log_comparison(evaluate_run(place / "run", at(place)), before)
    assert "other images or labels, though their names may be the same" in caplog.text
    there.unlink()
    log_comparison(evaluate_run(place / "run", at(place)), before)
    assert "18 images there, 17 now" in caplog.text


def test_an_edited_number_format_is_refused(place):
    config = at(place)
    config.dtype = "float7"
    with pytest.raises(UserError, match="dtype is 'float7'"):
        restored_run(place / "run", config)


def test_going_on_with_other_classes_is_refused_and_nothing_is_changed(place):
    configs.save(at(place), place / "run" / "config.json")
    (place / "run" / "result.json").unlink()
    renamed(place, "cow", "yak")
    before = contents(place / "run")
    with pytest.raises(UserError, match="only there: cow(?s:.*)only now: yak"):
        fit(at(place), place / "run")
    after = contents(place / "run")
    assert {p: v for p, v in after.items() if p.name != "log.txt"} == {
        p: v for p, v in before.items() if p.name != "log.txt"
    }


@pytest.mark.parametrize(
    ("there", "now", "lines"),
    [
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["b", "a"], ["classes, in another order: number 0 is a there and b now"]),
        (["a"], ["a", "b"], ["classes: 1 there, 2 now", "  only now: b"]),
        (
            [str(i) for i in range(9)],
            ["0"],
            ["classes: 9 there, 1 now", "  only there: 1, 2, 3, 4, 5 and 3 more"],
        ),
    ],
)
def test_what_differs_between_classes(there, now, lines):
    assert differing_classes(there, now) == lines


def test_another_preset_method_and_other_weights_are_named(place):
    found = at(place)
    meta = newest(place / "run") / "meta" / "metadata"
    content = unsealed(json.loads(meta.read_text()), 12)
    content["preset"] = "imagenet"
    content["config"]["method.num_tokens"] = 3
    content["backbone"]["sha256"] = "0" * 64
    meta.write_text(json.dumps(sealed(content)))
    with pytest.raises(UserError) as error:
        evaluate_run(place / "run", found)
    text = str(error.value)
    assert "preset: imagenet there, digits now" in text
    assert "method.num_tokens: 3 there, 8 now" in text
    assert f"frozen weights, sha256: {'0' * 64} there" in text


def test_a_damaged_record_is_damaged(place):
    for name in ("last", "best"):
        for meta in (place / "run" / "checkpoints" / name).glob("*/meta/metadata"):
            meta.write_text("{")
    with pytest.raises(UserError, match="no checkpoint is intact") as error:
        evaluate_run(place / "run", at(place))
    assert "delete" not in str(error.value) and "another --workdir" in str(error.value)


def evaluated(place, *words):
    name = f"--config.data.name=folder:{place / 'photos'}"
    done = command("eval", f"--workdir={place / 'run'}", name, *words)
    assert done.returncode == 0, done.stderr_text
    return done.stdout_text


def test_data_that_have_moved_are_told_and_are_not_compared(place):
    text = evaluated(place)
    assert "photos[test], 18 images: checkpoint last of step 12, preset digits, float32" in text
    assert "not compared with what the run recorded: other data.name" in text
    written = json.loads((place / "run" / "evaluations" / "1" / "evaluation.json").read_text())
    assert written["changed"] == {"data.name": f"folder:{place / 'photos'}"}
    assert written["images"] == 18
    own = json.loads((place / "run" / "evaluation.json").read_text())
    assert "changed" not in own  # the run's own stays


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--config.data.test=val", "photos[val], 12 images"),
        ("--config.train.batch_size=16", "18 images"),
        ("--checkpoint={step}", "checkpoint {step} of step {step}"),
    ],
)
def test_another_split_checkpoint_and_batch_size(place, words, said):
    step = min(int(p.name) for p in (place / "run" / "checkpoints" / "last").glob("[0-9]*"))
    assert said.format(step=step) in evaluated(place, words.format(step=step))
    assert [p.name for p in (place / "run" / "evaluations").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config.optim.lr=1", "config.optim.lr belongs to the training of this run"),
        ("--config.method.num_tokens=2", "config.method.num_tokens belongs to the training"),
        ("--config.backbone.depth=2", "config.backbone.depth belongs to the training"),
        ("--config.seed=2", "An evaluation takes data.*, mesh.*, backbone.weights"),
        ("--config.train.steps=2", "config.train.steps belongs"),
        ("--config.data.tset=val", "Did you mean 'test'"),
        ("--checkpoint=5000", "has no checkpoint of step 5000; it has those of: "),
        ("--checkpoint=worst", "worst holds no checkpoint"),
        ("--config=digits", "is a flag of train"),
    ],
)
@pytest.mark.parametrize("name", ["eval", "plot"])
def test_everything_else_is_refused(made, name, words, message):
    done = command(name, f"--workdir={made / 'run'}", words)
    assert done.returncode == 2 and message in done.stderr_text, done.stderr_text


def test_the_same_weights_may_lie_elsewhere_and_others_are_refused(place):
    moved = shutil.copy(fetch("digits_vit"), place / "elsewhere.npz")
    text = evaluated(place, f"--config.backbone.weights={moved}")
    assert "other data.name" in text and "backbone" not in text
    with np.load(moved) as file:
        arrays = {n: v + 1e-3 for n, v in file.items()}
    np.savez(place / "others.npz", **arrays)
    found = at(place)
    found.backbone.weights = str(place / "others.npz")
    with pytest.raises(UserError, match="frozen weights, sha256"):
        evaluate_run(place / "run", found)


def test_weights_elsewhere_from_python(place):
    moved = shutil.copy(fetch("digits_vit"), place / "elsewhere.npz")
    run = load_run(place / "run", weights=str(moved))
    assert len(run.predict(place / "photos" / "test")) == 18


OLDER = {"data": ["augment", "batch_loss"], "train": ["mixup", "accumulate"]}
OLDER |= {"backbone": ["rope", "resample"], "method": ["dropout"], "mesh": ["fsdp"]}


def test_a_run_of_an_older_version_has_the_defaults_of_newer_keys(place):
    path = place / "run" / "config.json"
    content = json.loads(path.read_text())
    for section, keys in OLDER.items():
        for key in keys:
            del content[section][key]
    del content["features"], content["study"]
    path.write_text(json.dumps(content))
    assert recorded.load(place / "run").to_dict().keys() == config().to_dict().keys()
    assert evaluate_run(place / "run", at(place))["test_count"] == 18
    (place / "run" / "result.json").unlink()
    again = recorded.load(place / "run")
    fit(again, place / "run")
    assert result(place / "run")["step"] == 12


def test_keys_of_a_newer_version_are_named(place):
    path = place / "run" / "config.json"
    content = json.loads(path.read_text())
    content["train"]["telepathy"] = content["method"]["magic"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not know: train.telepathy, method.magic"):
        load_run(place / "run")


def test_a_class_of_ones_own_needs_not_be_there_to_read_a_config(tmp_path):
    content = ConfigDict({"method": {"name": "nowhere.Mine", "x": 1}})
    found = recorded.complete(content, tmp_path / "config.json")
    assert found.method.x == 1 and found.train.batch_size == 128
