"""A run's folder after kills, damage and other data: nothing is lost, nothing silently wrong."""

import shutil

import numpy as np
import pytest

from tests.helpers.runs import config, digests, newest, result
from tests.runs.test_fit import stop_after
from vpjax.core.errors import Diverged, UserError
from vpjax.data import digits
from vpjax.runs import fit as fitting
from vpjax.runs import recorded
from vpjax.runs.blame import blamed, not_finite
from vpjax.runs.callbacks import Callback
from vpjax.runs.fit import fit
from vpjax.runs.history import Metrics, read_history
from vpjax.runs.scores import evaluate_run
from vpjax.train.checkpoint import Checkpoints
from vpjax.train.signals import Stopped


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    worse_from_step_8_on(monkeypatch)


def best():
    return config(train={"select": "best"})


def worse_from_step_8_on(monkeypatch):
    """Makes the evaluations after steps 4 and 6 the best ones."""
    real = fitting.evaluate_metrics

    def found(experiment, state, split):
        step = int(state.step)
        return real(experiment, state, split) | {"accuracy": float(step if step < 8 else 1)}

    monkeypatch.setattr(fitting, "evaluate_metrics", found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that reports its best checkpoint, of step 6, and that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        worse_from_step_8_on(patch)
        folder = tmp_path_factory.mktemp("whole")
        fit(best(), folder)
    return folder


@pytest.fixture
def folder(tmp_path, whole):
    """That run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def steps(folder, kind):
    return sorted(int(p.name) for p in (folder / "checkpoints" / kind).glob("[0-9]*"))


def content(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_best_is_on_the_disk_before_last(tmp_path, monkeypatch):
    said = []

    class Told(Checkpoints):
        def save(self, state, meta):
            said.append((self.folder.name, int(state.step)))
            super().save(state, meta)

        def wait(self):
            super().wait()
            said.append(("waited", self.folder.name))

    monkeypatch.setattr(fitting, "Checkpoints", Told)
    fit(best(), tmp_path)
    for i, entry in enumerate(said):
        if entry[0] == "best":
            assert ("waited", "best") in said[i:] and said.index(("last", entry[1])) > i
            between = said[i : said.index(("last", entry[1]))]
            assert between.count(("waited", "best")) == 2  # before its save, and after


def test_killed_before_best_was_saved(tmp_path, monkeypatch, whole):
    """The state is in `last`, so it is the best one of the run that goes on."""
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            fit(best(), tmp_path)
    assert steps(tmp_path, "last") == steps(tmp_path, "best") == [2]
    shutil.rmtree(tmp_path / "checkpoints" / "best")
    fit(best(), tmp_path)
    same = ("step", "best_val_step", "best_val_accuracy", "test_accuracy", "test_loss")
    assert {k: result(tmp_path)[k] for k in same} == {k: result(whole)[k] for k in same}
    assert "lost_best_step" not in result(tmp_path)


def test_what_is_reported_belongs_to_what_was_restored(folder, whole, caplog):
    before = steps(folder, "best")
    assert before == [4, 6] and result(whole)["step"] == 6
    (folder / "result.json").unlink()
    shutil.rmtree(newest(folder, "best"))
    found = fit(best(), folder)
    assert found["step"] == found["best_val_step"] == before[0]
    assert found["lost_best_step"] == before[1] and "was deleted" in caplog.text
    assert found["best_val_accuracy"] == 4.0


def test_without_any_best_checkpoint_there_is_no_result(folder):
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "best")
    with pytest.raises(UserError, match="holds no checkpoint any more"):
        fit(best(), folder)
    assert not (folder / "result.json").exists() and steps(folder, "last")


@pytest.mark.parametrize("steps", [1, 5, 6])
def test_the_history_of_a_stopped_run_is_that_of_one_that_was_not(
    tmp_path, monkeypatch, whole, steps
):
    with monkeypatch.context() as patch:
        stop_after(patch, steps - 1)
        with pytest.raises(Stopped):
            fit(best(), tmp_path)
    fit(best(), tmp_path)
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / file).read_text() == (whole / file).read_text()
    assert digests(tmp_path) == digests(whole)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\0" * 300, b'{"seed": 0', b"\xff\xfe", None],
    ids=["empty", "open", "zeros", "cut", "binary", "gone"],
)
def test_a_broken_config_is_rebuilt(folder, whole, text, caplog):
    def damage():
        if text is None:
            (folder / "config.json").unlink(missing_ok=True)
        else:
            (folder / "config.json").write_bytes(text)

    damage()
    assert recorded.load(folder) == recorded.load(whole)
    assert ("is missing or damaged" in caplog.text) == (text is not None)
    if text is None or text == b"":  # the rest is the same
        assert evaluate_run(folder)["test_loss"] == result(whole)["test_loss"]
        (folder / "result.json").unlink()
        damage()
        assert fit(best(), folder)["test_loss"] == result(whole)["test_loss"]
        assert (folder / "config.json").read_bytes() == (whole / "config.json").read_bytes()
        with pytest.raises(UserError, match="belongs to a run with another config"):
            damage() or fit(config(optim={"lr": 0.5}), folder)


def test_a_changed_config_is_noticed(folder, caplog):
    recorded.load(folder)
    assert not caplog.text
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_tokens": 8', '"num_tokens": 9'))
    recorded.load(folder)
    assert "method.num_tokens: 9, not 8" in caplog.text


def test_a_broken_config_of_a_run_without_checkpoints(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "config.json").write_text("")
    assert recorded.load(folder).optim.lr == best().optim.lr  # of model.safetensors
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="config.json is damaged: it is empty"):
        recorded.load(folder)


def test_an_evaluation_changes_no_checkpoint(folder):
    half = folder / "checkpoints" / "last" / "14.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "half").write_text("being written")
    before = content(folder / "checkpoints")
    evaluate_run(folder)
    evaluate_run(folder, checkpoint="last")
    assert content(folder / "checkpoints") == before


@pytest.mark.parametrize("change", ["images", "labels", "one image"])
def test_a_run_does_not_go_on_with_other_images_of_the_same_names(
    folder, monkeypatch, change, whole
):
    (folder / "result.json").unlink()
    images, labels = digits.load()
    first = digits.ROWS["high"]["train"][0]
    if change == "images":
        images = 255 - images
    elif change == "one image":
        images[first] = 0
    else:
        labels[first : first + 50] = labels[first : first + 50][::-1].copy()
    monkeypatch.setattr(digits, "load", lambda: (images, labels))
    before = content(folder / "checkpoints")
    with pytest.raises(UserError, match="the images or labels are not those") as error:
        fit(best(), folder)
    assert "train" in str(error.value) and content(folder / "checkpoints") == before
    monkeypatch.undo()
    monkeypatch.setenv("VPJAX_CACHE", str(folder / "cache"))
    worse_from_step_8_on(monkeypatch)
    assert fit(best(), folder)["test_loss"] == result(whole)["test_loss"]


class Deletes(Callback):
    """Deletes the history after the first evaluation."""

    def on_start(self, start):
        self.file, self.done = start.folder / "metrics.jsonl", False

    def on_evaluation(self, step, values):
        if not self.done:
            self.file.unlink()
            self.done = True


def test_a_history_that_is_deleted_does_not_end_a_run(tmp_path, caplog, whole):
    found = fit(best(), tmp_path, callbacks=[Deletes()])
    assert found["test_loss"] == result(whole)["test_loss"]
    assert "was deleted: the history goes on" in caplog.text
    assert max(row["step"] for row in read_history(tmp_path / "metrics.jsonl")) == 12


@pytest.mark.parametrize("text", ["x\n{}\n", "[1]\n{}\n"])
def test_a_history_that_is_edited_meanwhile_does_not_end_a_run(tmp_path, text, caplog):
    with Metrics(tmp_path) as metrics:
        metrics.write(1, {"loss": 2.0})
        (tmp_path / "metrics.jsonl").write_text(text)
        metrics.write_csv()
    assert "metrics.csv is not written" in caplog.text


class FakeExperiment:
    loaded = None

    def __init__(self, frozen, rows=None):
        self.frozen = frozen
        loader = type("Loader", (), {"rows": type("Rows", (), {"features": rows})})
        loaders = {} if rows is None else {"train": loader}
        self.inputs = type("Inputs", (), {"loaders": loaders, "cached": rows is not None})


GOOD, BAD = np.ones((3, 4), np.float32), np.array([[1, 1], [np.nan, np.inf]], np.float32)


@pytest.mark.parametrize(
    ("frozen", "rows", "kind", "text"),
    [
        ({"backbone/a": GOOD}, None, Diverged, "it has"),
        ({"backbone/a": GOOD}, GOOD, Diverged, "it has"),
        ({"backbone/a": GOOD, "backbone/b": BAD}, None, UserError, "backbone/b (2 of 4 numbers)"),
        ({"backbone/a": GOOD}, BAD, UserError, "1 of the 2 images of train"),
        ({"ids": np.arange(3)}, None, Diverged, "it has"),
    ],
)
def test_diverged_is_said_only_where_it_is_true(frozen, rows, kind, text):
    with pytest.raises(UserError) as error, blamed(FakeExperiment(frozen, rows)):
        raise Diverged("it has diverged")
    assert type(error.value) is kind and text in str(error.value)


def test_names_of_what_is_not_finite():
    assert not_finite({"a": GOOD}) == ""
    assert not_finite(dict.fromkeys("abcde", BAD)).endswith("c (2 of 4 numbers) and 2 more")
