"""Checkpoints that are damaged, read while they are written, or written as the clock jumps."""

import contextlib
import gc
import json
import random

import jax
import numpy as np
import pytest

from tests.helpers.saves import META, saved, state
from vpjax.core.errors import UserError
from vpjax.train import checkpoint
from vpjax.train.checkpoint import Checkpoints, read_metadata, sealed, unsealed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("made"), 2, 4)


@pytest.fixture
def folder(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "last")


def restored(folder, **options):
    with contextlib.closing(Checkpoints(folder, **options)) as saved:
        items, meta = saved.restore(state(0))
    return int(items["weights"]["trainable"]["method/head/bias"][0]), meta


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_metadata_are_sealed():
    meta = META | {"step": 4, "digests": {}, "arrays": {}}
    found = json.loads(json.dumps(sealed(meta)))
    assert unsealed(found, 4) == meta == unsealed(meta, 4)  # also of earlier versions
    for change in ({"step": 5}, {"early": {}}, {"sha256": "0"}, {"sha256": None}, {"more": 1}):
        with pytest.raises(ValueError, match="metadata"):
            unsealed(found | change, 4)
    with pytest.raises(ValueError, match="metadata are those of step 4"):
        unsealed(found, 5)
    for other in ([], None, 3, "text"):
        with pytest.raises(ValueError, match="no JSON object"):
            unsealed(other, 4)


def test_every_flipped_bit_of_the_metadata_is_noticed(folder):
    file = folder / "4" / "meta" / "metadata"
    good, rng = file.read_bytes(), random.Random(0)
    meta = read_metadata(folder / "4")
    for place in rng.sample(range(len(good)), min(len(good), 400)):
        bit = 1 << rng.randrange(8)
        file.write_bytes(bytes(b ^ bit * (i == place) for i, b in enumerate(good)))
        with contextlib.suppress(ValueError):
            assert read_metadata(folder / "4") == meta  # the bit was of a blank


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"step": 4}', b"\xff\xfe", b"null"])
def test_of_damaged_metadata_the_checkpoint_before_is_used(folder, text, caplog):
    (folder / "4" / "meta" / "metadata").write_bytes(text)
    with caplog.at_level("WARNING", logger="vpjax"):
        assert restored(folder)[0] == 2
    assert "damaged" in caplog.text and str(folder / "4") in caplog.text


def test_a_reader_changes_nothing(folder):
    half = folder / "6.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "written").write_text("by another process, just now")
    before = names(folder)
    assert restored(folder, read_only=True)[0] == 4
    with contextlib.closing(Checkpoints(folder, read_only=True)) as saved:
        found, _ = saved.read_weights(lambda meta: None)
    assert found["trainable"]["method/head/bias"][0] == 4
    assert names(folder) == before and (half / "written").exists()


def test_the_holder_of_the_lock_cleans(folder):
    (folder / "6.orbax-checkpoint-tmp").mkdir()
    assert restored(folder)[0] == 4
    assert names(folder) == ["2", "4"]


def test_a_reader_follows_a_run_that_goes_on(folder, monkeypatch):
    """The checkpoint that is being read is deleted, as the run keeps two."""
    real, first = checkpoint.Checkpoints._meta, []

    def slow(self, step):
        if not first:
            first.append(step)
            with contextlib.closing(Checkpoints(folder)) as writer:
                for newer in (6, 8):
                    writer.save(state(newer), META)
        return real(self, step)

    monkeypatch.setattr(checkpoint.Checkpoints, "_meta", slow)
    assert restored(folder, read_only=True)[0] == 8
    assert first == [4] and names(folder) == ["6", "8"]


@pytest.mark.parametrize("where", ["_load_checkpoint_infos", "reload"])
def test_a_checkpoint_is_deleted_while_a_reader_lists_them(folder, monkeypatch, where):
    """As Orbax does it: the folder's names first, the age of each of them then."""
    real, gone = getattr(checkpoint.ocp.CheckpointManager, where), [1, 2, 3]

    def listed(self, *args, **options):
        if gone:
            raise FileNotFoundError(2, "No such file or directory", str(folder / str(gone.pop())))
        return real(self, *args, **options)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, where, listed)
    assert restored(folder, read_only=True)[0] == 4 and not gone


def test_a_reader_of_nothing_makes_no_folder(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "last", read_only=True)) as saved:
        assert saved.restore(state(0)) is None
    assert not names(tmp_path)


@pytest.mark.parametrize("where", ["save", "wait_until_finished"])
def test_a_jump_of_the_clock_is_survived(folder, monkeypatch, where, caplog):
    """Orbax gives up waiting, as it measures by a clock that somebody has set."""
    with contextlib.closing(Checkpoints(folder)) as saved:
        real, jumped = getattr(saved.manager, where), []

        def gives_up(*args, **options):
            if not jumped:
                jumped.append(1)
                raise TimeoutError("Timed out after 3600 seconds.")
            return real(*args, **options)

        saved.save(state(6), META)
        saved.wait()
        monkeypatch.setattr(saved.manager, where, gives_up)
        saved.save(state(8), META)
        saved.wait()
        assert jumped
    assert "clock" in caplog.text
    assert restored(folder)[0] == 8


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_what_the_machine_lacks_is_no_damage(folder, monkeypatch, error):
    def fails(*args):
        raise error

    monkeypatch.setattr(checkpoint.Checkpoints, "_restore", fails)
    with pytest.raises(UserError, match="disk is full|out of memory") as found:
        restored(folder)
    assert "damaged" not in str(found.value) and "no checkpoint is intact" not in str(found.value)


def test_what_is_saved_is_of_the_moment_too(folder, monkeypatch):
    """A step reuses the arrays of the one before, and Orbax may be asked again later."""
    begun = state(6)
    with contextlib.closing(Checkpoints(folder)) as saved:
        with monkeypatch.context() as patch:
            patch.setattr(saved.manager, "save", lambda *args, **options: None)
            saved.save(begun, META)  # which is lost on the way
        jax.tree.map(lambda array: array.delete(), vars(begun))
        waits = iter([TimeoutError("Timed out after 3600 seconds.")])

        def gives_up(real=saved.manager.wait_until_finished):
            for error in waits:
                raise error
            return real()

        monkeypatch.setattr(saved.manager, "wait_until_finished", gives_up)
        saved.wait()
    assert restored(folder)[0] == 6


def test_saving_keeps_nothing(tmp_path):
    """Orbax asks TensorStore for lists of metrics that it never frees, where arrays are JAX's."""
    with contextlib.closing(Checkpoints(tmp_path / "last")) as saved:
        counts = []
        for step in range(1, 13):
            saved.save(state(step), META)
            saved.wait()
            counts.append(objects())
    # Orbax itself keeps two or three small ones of each checkpoint, and others for a while.
    assert counts[-1] - counts[3] < 8 * 8, counts


def objects():
    """How many lists and dictionaries there are."""
    gc.collect()
    return sum(type(found) in (list, dict) for found in gc.get_objects())


def test_metadata_are_those_of_the_moment(tmp_path):
    """They are written in the background while the run goes on."""
    early = dict(META["early"])
    with contextlib.closing(Checkpoints(tmp_path / "last")) as saved:
        saved.save(state(1), META | {"early": early})
        saved.wait()
    np.testing.assert_equal(read_metadata(tmp_path / "last" / "1")["early"], early)
