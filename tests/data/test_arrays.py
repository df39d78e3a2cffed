"""Data sets from arrays, paths and folders."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import Loader, from_arrays, open_images, preset
from vpjax.data.check import Split, check_split, examine_split

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)  # B H W C
GREY = RNG.integers(0, 256, (6, 8, 8), np.uint8)  # B H W
LABELS = np.array([0, 2, 1, 2, 0, 1])


def pixels(source):
    return [e["image"] for e in source.__getitems__(range(len(source)))]


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, list])
def test_colour_images(convert):
    source = from_arrays(convert(COLOUR), convert(LABELS))
    assert source.image_shape == (5, 4, 3)
    assert source.classes == ("0", "1", "2") and source.name == "arrays"
    assert source.labels().tolist() == LABELS.tolist() and source.labels_known
    np.testing.assert_array_equal(pixels(source), COLOUR)
    assert [source[i]["label"] for i in range(6)] == LABELS.tolist()
    assert source.counts().tolist() == [2, 2, 2]
    source.check(3)


def test_grey_images_and_class_names():
    source = from_arrays(GREY, LABELS, ["ant", "bee", "cat", "dog"], name="mine")
    assert source.image_shape == (8, 8, 1) and source.num_classes == 4
    assert source.metadata[3] == {"name": "dog"} and source.name == "mine"
    np.testing.assert_array_equal(pixels(source), GREY[..., None])


def test_images_of_different_sizes():
    images = [COLOUR[0], COLOUR[1, :3], COLOUR[2, :, :2]]
    source = from_arrays(images, [0, 1, 1])
    assert source.image_shape == (None, None, 3)
    for image, stored in zip(images, pixels(source), strict=True):
        np.testing.assert_array_equal(image, stored)
    batch = next(Loader(source, 3, preset("inception"), 8, train=False).batches())
    assert batch["image"].shape == (3, 8, 8, 3) and batch["label"].tolist() == [0, 1, 1]


def test_grey_among_colours_becomes_rgb():
    source = from_arrays([GREY[0], COLOUR[0]], [0, 1])
    assert source.image_shape == (None, None, 3)
    np.testing.assert_array_equal(source[0]["image"], np.stack([GREY[0]] * 3, -1))
    np.testing.assert_array_equal(source[1]["image"], COLOUR[0])


@pytest.mark.parametrize("dtype", [int, bool, np.uint8])
def test_several_classes_an_image(dtype):
    rows = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]])
    source = from_arrays(COLOUR, rows.astype(dtype))
    assert source.multilabel and source.num_classes == 3
    assert source.labels().tolist() == rows.tolist()
    batch = next(Loader(source, 6, preset("digits"), 4, train=False).batches())
    assert batch["label"].tolist() == rows.tolist() and batch["label"].dtype == np.int32


def test_batches_are_those_of_files(tmp_path):
    """Arrays train as the same pixels in files do."""
    for i, image in enumerate(COLOUR):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    arrays = from_arrays(COLOUR, np.zeros(6, int), ["unknown"])
    files = open_images(tmp_path)
    for train in (True, False):
        one, other = (
            next(Loader(s, 4, preset("imagenet"), 3, seed=1, train=train).batches())
            for s in (arrays, files)
        )
        np.testing.assert_array_equal(one["image"], other["image"])


def test_fingerprints_see_pixels_and_labels():
    base = from_arrays(COLOUR, LABELS).fingerprint
    assert base == from_arrays(list(COLOUR), LABELS.tolist()).fingerprint
    assert base != from_arrays(COLOUR, LABELS[::-1]).fingerprint
    assert base != from_arrays(255 - COLOUR, LABELS).fingerprint


def test_arrays_can_be_checked():
    source = from_arrays(np.concatenate([COLOUR, COLOUR[:1]]), [*LABELS, 1])
    split = Split("train", "", source, examine_split("train", source), None)
    (finding,) = check_split(split, "arrays")
    assert finding.problem == "contradiction" and "0 (0) and 6 (6)" in finding.examples[0]


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (COLOUR / 255, LABELS, r"images are float64; expected uint8, .*255 \* images"),
        ([COLOUR[0] / 255], [0], "image 0 is float64; expected uint8"),
        (COLOUR.astype(int), LABELS, "images are int64; expected uint8"),
        (COLOUR[0], [0], r"looks like one image in colour; .*images\[None\]"),
        (GREY[0], [0], r"shape \(8, 8\); expected \(B, H, W, 3\)"),
        (COLOUR[..., :2], LABELS, r"shape \(6, 5, 4, 2\); expected"),
        ([COLOUR[0], COLOUR], [0, 1], r"image 1 has shape \(6, 5, 4, 3\); expected \(H, W, 3\)"),
        (COLOUR[:, :0], LABELS, "expected"),
        (COLOUR, LABELS[:5], "there are 6 images and 5 labels"),
        (COLOUR, LABELS / 2, "labels are float64 of shape"),
        (COLOUR, list("abcabc"), "Class names go into `classes`"),
        (COLOUR, LABELS - 1, "label 0 is -1; labels count from 0"),
        (COLOUR, LABELS[:, None], "several classes hold 2; expected zeros and ones"),
    ],
)
def test_what_cannot_be_used(images, labels, match):
    with pytest.raises(UserError, match=match):
        from_arrays(images, labels)


def test_labels_that_do_not_suit_the_classes():
    with pytest.raises(UserError, match="label 1 is 2; .*there are 2 classes"):
        from_arrays(COLOUR, LABELS, ["ant", "bee"])
    with pytest.raises(UserError, match=r"shape \(6, 1\) and there are 2 classes"):
        from_arrays(COLOUR, np.ones((6, 1), int), ["ant", "bee"])
    # An empty training set is an error when it is used, as for every source.
    with pytest.raises(UserError, match="arrays has no examples"):
        from_arrays(COLOUR[:0], LABELS[:0]).check(1)


def test_images_without_labels(tmp_path):
    for name in ("b/2.png", "a.jpg", "b/c/1.webp", "b/.hidden.png", ".git/x.png", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (9, 9, 9)).save(path, "png")
    source = open_images(tmp_path)
    assert source.records.names == [f"{tmp_path}/{n}" for n in ("a.jpg", "b/2.png", "b/c/1.webp")]
    assert source.classes == ("unknown",) and source.labels().tolist() == [0, 0, 0]
    assert source[0]["image"].shape == (4, 6, 3) and source.image_shape == (None, None, 3)
    assert open_images(str(tmp_path)).records.names == source.records.names
    one = open_images(tmp_path / "a.jpg", channels=1)
    assert one.records.names == [f"{tmp_path}/a.jpg"] and one[0]["image"].shape == (4, 6, 1)
    some = [tmp_path / "b/2.png", f"{tmp_path}/a.jpg"]
    assert open_images(some).records.names == [str(path) for path in some]


def test_arrays_without_labels():
    for images in (COLOUR, list(COLOUR), jnp.asarray(COLOUR)):
        source = open_images(images)
        assert source.labels().tolist() == [0] * 6 and source.records.names[5] == "5"
        np.testing.assert_array_equal(pixels(source), COLOUR)
    assert open_images(GREY).image_shape == (8, 8, 1)


def test_images_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="none.jpg: there is no such file"):
        open_images(tmp_path / "none.jpg")
    with pytest.raises(UserError, match=r"hold no images that vpjax reads"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="1 of 1 paths lead to no image, the first is .*none.jpg"):
        open_images([tmp_path / "none.jpg"])
    with pytest.raises(UserError, match="images are float32"):
        open_images(COLOUR.astype(np.float32))
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(UserError, match=r"example 0 \(.*broken.png\) is not a readable image"):
        open_images(tmp_path)[0]
