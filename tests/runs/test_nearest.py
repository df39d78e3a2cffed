"""Features of training pictures: computed once, kept with a record, computed anew if it differs."""

import json

import numpy as np
import pytest
from PIL import Image

import vpjax
from tests.helpers.tried import tried
from vpjax.core.errors import UserError
from vpjax.runs import nearest
from vpjax.runs.predict import Predictor


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tried(tmp_path_factory.mktemp("nearest"), "linear")


@pytest.fixture
def computed(monkeypatch):
    """How many images went through the model."""
    count, outputs = [0], Predictor.outputs

    def counting(self, *arguments):
        for batch in outputs(self, *arguments):
            count[0] += len(batch.index)
            yield batch

    monkeypatch.setattr(Predictor, "outputs", counting)
    return count


@pytest.fixture(autouse=True)
def empty(place):
    (place.folder / nearest.FILE).unlink(missing_ok=True)


def test_the_nearest_by_hand(place, computed):
    found = nearest.nearest_of(place.run)
    assert len(found) == computed[0] == 60
    features = place.run.features(found.source)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit[7]
    best = found.find(features[7] * 3, 4)
    assert [near.index for near in best] == np.argsort(-cosines)[:4].tolist()
    np.testing.assert_allclose([n.cosine for n in best], np.sort(cosines)[::-1][:4], atol=1e-5)


def test_they_are_computed_once(place, computed):
    first = nearest.nearest_of(place.run)
    again = nearest.nearest_of(vpjax.load_run(place.folder))
    assert computed[0] == 60
    features = np.ones(48, np.float32)
    assert first.find(features, 60) == again.find(features, 60)
    with np.load(place.folder / nearest.FILE) as kept:
        record = json.loads(str(kept["record"]))
        assert kept["features"].shape == (60, 48)
    assert (record["images"], record["step"], record["preset"]) == (60, 12, "digits")


def test_what_they_depend_on(place, computed, tmp_path):
    nearest.nearest_of(place.run)
    nearest.nearest_of(vpjax.load_run(place.folder, checkpoint="last"))
    assert computed[0] == 60
    some = nearest.nearest_of(place.run, 10)  # fewer are searched, spread over all
    assert len(some) == 10 and computed[0] == 70
    assert some.indices[0] == 0 and some.indices[-1] == 59
    path = place.folder / nearest.FILE
    path.write_bytes(path.read_bytes()[:300])  # cut off
    assert len(nearest.nearest_of(place.run, 10)) == 10 and computed[0] == 80
    file = place.photos / some.source.records.names[0]
    before = file.read_bytes()
    try:
        Image.new("L", (8, 8)).save(file)
        nearest.nearest_of(place.run, 10)
        assert computed[0] == 90
        file.write_bytes(b"broken")  # which is left out
        assert nearest.nearest_of(place.run, 10).indices[0] > 0
    finally:
        file.write_bytes(before)


def test_a_folder_that_cannot_be_written(place, monkeypatch, caplog):
    def full(*arguments, **values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(nearest.nearest_of(place.run)) == 60
    assert "nearest.npz cannot be kept (No space left on device)" in caplog.text
    assert not list(place.folder.glob("*nearest*"))


def test_photos_that_have_gone(place, tmp_path):
    place.photos.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(UserError, match="which does not exist here. Say where it is now"):
            nearest.nearest_of(place.run)
        with pytest.raises(UserError, match="has no val split"):
            nearest.open_run_split(place.run, "val")
    finally:
        (tmp_path / "elsewhere").rename(place.photos)
