"""Prompts of CLIP from the command line: photos of a few species, and a tiny CLIP on disk."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vpjax
from configs import clip_prompts
from tests.helpers import clip as files
from tests.helpers.photos import SPECIES, write_clip, write_folders
from tests.helpers.runs import command, digests, main, result
from vpjax.core.errors import UserError

NAMES = sorted(name for name, *_ in SPECIES)
BASE, NEW = NAMES[:4], NAMES[4:]
# Towers of a tiny CLIP have 2 and 3 layers.
SMALL = {
    "coop": {"method.init_words": "a photo of a"},
    "cocoop": {"method.init_words": "", "method.num_tokens": 2},
    "vpt": {"method.num_tokens": 2, "method.depth": 2},
    "ivlp": {"method.text_depth": 2, "method.vision_depth": 2},
    "maple": {"method.depth": 2},
    "promptsrc": {"method.text_depth": 2, "method.vision_depth": 1, "optim.average_mean": 2.0},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with photos and clip, and a cache of features that all commands share."""
    folder = tmp_path_factory.mktemp("prompts")
    write_folders(folder / "photos", train=4, val=2, test=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "JOINT", 32)  # CoCoOp's network needs wide features
        drawn = files.hub
        patch.setattr(files, "hub", lambda: drawn() | {"logit_scale": np.float32(np.log(20.0))})
        write_clip(folder / "clip")
        patch.setenv("VPJAX_CACHE", str(folder / "cache"))
        yield folder


def options(place: Path, method: str, **changes) -> list[str]:
    chosen = {
        "backbone.weights": place / "clip",
        "data.name": f"folder:{place / 'photos'}",
        "data.shots": 4,
        "data.eval_batch_size": 8,
        "data.verify": False,
        "mesh.data": 1,
        "train.epochs": 3,
        "train.batch_size": 4,
        "optim.lr": 0.05,
        "train.log_every": 1,
        "draw": False,
        "curves": False,
    }
    chosen |= SMALL[method] | changes
    if "train.steps" in changes:
        del chosen["train.epochs"]
    words = [f"--config.{k}={v}" for k, v in chosen.items()]
    return [f"--config=configs/clip_prompts.py:{method}", *words]


def succeeds(*words: str) -> str:
    done = command(*words)
    assert done.returncode == 0, done.stderr_text
    return done.stdout_text


@pytest.mark.parametrize("method", SMALL)
def test_a_run_from_training_to_export(place, tmp_path, method):
    folder = tmp_path / "run"
    succeeds(*options(place, method), f"--workdir={folder}")
    found = result(folder)
    assert found["test_count"] == 3 * len(BASE) and np.isfinite(found["test_loss"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["lr"] == pytest.approx(1e-5) and lines[4]["lr"] == pytest.approx(0.05)

    # Elsewhere, from what was learnt alone: no weight of CLIP is in it.
    run = vpjax.load_run(folder)
    learnt = run.save(tmp_path / "learnt.safetensors")
    assert learnt.stat().st_size < 40_000
    photos = sorted((place / "photos" / "test" / BASE[0]).iterdir())
    shares = vpjax.load_run(learnt).predict(photos).probabilities
    np.testing.assert_allclose(shares, run.predict(photos).probabilities, atol=1e-6)
    assert shares.shape == (len(photos), len(BASE))

    # The same numbers again; then other classes, by their names alone.
    said = succeeds("eval", f"--workdir={folder}")
    assert "equal to the recorded test accuracy" in said
    succeeds("eval", f"--workdir={folder}", "--config.data.classes=new")
    other = json.loads((folder / "evaluations" / "1" / "evaluation.json").read_text())
    assert other["test"]["count"] == 3 * len(NEW)
    names = ["a heron", "an oak", "a red fox"]
    again = vpjax.load_run(folder, classes=names)
    assert again.classes == tuple(names)
    assert again.predict(photos).probabilities.shape == (len(photos), 3)

    # In a process of its own: checks of shapes, which tests add, know no free batch size.
    target = tmp_path / "program.stablehlo"
    done = main("export", f"--workdir={folder}", str(target))
    assert done.returncode == 0, done.stderr_text
    assert "outputs differ" in done.stdout_text and target.stat().st_size > 0


@pytest.mark.parametrize("method", ["coop", "promptsrc"])
def test_an_interrupted_run_ends_the_same(place, tmp_path, method):
    """PromptSRC's average is in the checkpoint."""
    short = {"train.steps": 7, "train.eval_every": 1, "train.save_every": 0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeeds(*options(place, method, **short), f"--workdir={whole}")
    succeeds(*options(place, method, **short), f"--workdir={parts}")
    for done in ("result.json", "model.safetensors"):
        (parts / done).unlink()
    newest = max((parts / "checkpoints" / "last").glob("[0-9]*"), key=lambda p: int(p.name))
    shutil.rmtree(newest)
    said = succeeds(*options(place, method, **short), f"--workdir={parts}")
    assert "resumed at step 4 of 7" in said
    assert digests(parts) == digests(whole)


def test_contexts_of_classes_serve_no_others(place, tmp_path):
    chosen = {"method.init_words": "", "method.class_specific": True, "method.num_tokens": 2}
    succeeds(*options(place, "coop", **chosen), f"--workdir={tmp_path / 'run'}")
    done = command("eval", f"--workdir={tmp_path / 'run'}", "--config.data.classes=new")
    assert done.returncode == 2 and "nothing about others" in done.stderr_text
    with pytest.raises(UserError, match="nothing about others.*Load it without classes"):
        vpjax.load_run(tmp_path / "run", classes=["an oak"])


def test_texts_are_encoded_once_for_all_images(place, tmp_path):
    """Training on cached features, in rematerialised blocks, ends as training on images."""
    plain = {"data.augment": "", "features": "off", "train.steps": 4}
    cached = plain | {"features": "cached", "remat": "full"}
    ends = []
    for name, changes in (("off", plain), ("cached", cached)):
        succeeds(*options(place, "coop", **changes), f"--workdir={tmp_path / name}")
        ends.append(vpjax.load_run(tmp_path / name).parts.trainable["method/ctx"])
    assert result(tmp_path / "cached")["cached_features"]
    np.testing.assert_allclose(*ends, atol=1e-5)


@pytest.mark.parametrize("protocol", clip_prompts.PROTOCOLS)
@pytest.mark.parametrize("method", clip_prompts.RECIPES)
def test_recipes(method, protocol):
    config = clip_prompts.get_config(f"method={method},protocol={protocol},shots=4")
    assert config.data.classes == ("base" if protocol == "base" else "")
    assert config.data.shots == 4 and config.optim.warmup_lr == 1e-5
    if (method, protocol) == ("coop", "all"):
        assert config.method.num_tokens == 16 and config.train.epochs == 100


def test_choices_that_do_not_exist():
    for label in ("coup", "protocol=bass", "shots=few"):
        with pytest.raises(UserError):
            clip_prompts.get_config(label)
