"""What `demo` says of a photo: as `predict` does, whatever the file, and nothing is kept."""

import base64
import io
import tempfile

import numpy as np
import pytest
from PIL import Image

import vpjax
from tests.helpers.cases import make
from tests.helpers.served import served
from tests.helpers.tried import tried
from vpjax.core.errors import UserError
from vpjax.models.partition import merge
from vpjax.report import demo_maps
from vpjax.report.demo import EXAMPLES, Demo
from vpjax.report.plots import attention
from vpjax.runs.nearest import nearest_of, open_run_split


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tried(tmp_path_factory.mktemp("demo"))
    nearest, test = nearest_of(found.run), open_run_split(found.run, "test")
    found.demo = Demo(found.run, 3, nearest, test)
    found.demo.warm_up()
    return found


def opened(address):
    kind, _, data = address.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert kind == f"data:image/{image.format.lower()}"
        return np.asarray(image)


def saved(image, **options):
    data = io.BytesIO()
    image.save(data, **options)
    return data.getvalue()


def kinds():
    """Files of one picture, and what is said of them."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (20, 30), np.uint8)
    colour = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(grey))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - grey)]}
    twelve = Image.fromarray(grey.astype(np.uint16) << 4)
    return {
        "grey": (saved(Image.fromarray(grey), format="PNG"), "PNG, 30 × 20 pixels"),
        "deep": (saved(twelve, format="PNG"), "PNG, 30 × 20 pixels, of 12 bits"),
        "cmyk": (saved(colour.convert("CMYK"), format="JPEG"), "JPEG, 30 × 20 pixels, CMYK"),
        "clear": (saved(clear, format="PNG"), "PNG, 30 × 20 pixels, transparent, on white"),
        "turned": (
            saved(colour, format="JPEG", exif=turned),
            "JPEG, 20 × 30 pixels, upright by its EXIF",
        ),
        "moving": (
            saved(Image.fromarray(grey), format="GIF", **frames),
            "GIF, 30 × 20 pixels, the first of 2 pictures",
        ),
        "palette": (saved(colour.convert("P"), format="PNG"), "PNG, 30 × 20 pixels"),
        "tiff": (saved(colour, format="TIFF"), "TIFF, 30 × 20 pixels"),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_file_is_read_as_predict_reads_it(place, tmp_path, kind):
    data, words = kinds()[kind]
    (tmp_path / "photo").write_bytes(data)
    found = place.demo.look(data)
    expected = place.run.predict(tmp_path / "photo")
    best = np.argsort(-expected.probabilities[0], kind="stable")[:3]
    assert [top["name"] for top in found["top"]] == [place.run.classes[k] for k in best]
    shares = [top["share"] for top in found["top"]]
    np.testing.assert_allclose(shares, expected.probabilities[0, best], atol=1e-6)
    assert found["about"] == words and found["several"] == []
    assert found["milliseconds"] > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty."),
        (b"<html>no</html>", "This is no picture, or of a kind that is not read: JPEG, PNG"),
        (kinds()["tiff"][0][:200], "not a picture that can be read"),
        (kinds()["grey"][0][:80], "not a picture that can be read"),
        (saved(Image.new("F", (4, 4)), format="TIFF"), "floating-point pixels"),
    ],
    ids=["empty", "text", "broken", "cut off", "no range"],
)
def test_what_is_no_picture(place, data, message):
    with pytest.raises(UserError, match=message):
        place.demo.look(data)


def test_a_picture_of_too_many_pixels(place):
    demo = Demo(place.run)
    demo._how = demo._how._replace(max_pixels=100)
    with pytest.raises(UserError, match="20 x 30 pixels, more than the 100 of data.max_pixels"):
        demo.look(kinds()["grey"][0])


def test_maps_are_those_of_the_model(place):
    data = kinds()["grey"][0]
    found = place.demo.look(data)
    assert [m["name"] for m in found["maps"]] == ["Prompts", "Grad-CAM", "Class token"]
    assert found["size"] == [8, 8] and opened(found["picture"]).shape == (8, 8, 3)
    for drawn in found["maps"]:
        assert opened(drawn["picture"]).shape == (224, 224, 3)
    pixels = opened(found["picture"])[None]  # PNG, as it is small
    inputs = place.run.predictor.to_input()({"image": pixels}, None)
    layers = attention.attention(tuple(place.run.predictor.parts), inputs)
    model = place.run.model
    shares = np.mean([x.prompts[1:] for x in layers if len(x.own) > 1], axis=0)
    said = f"{100 * shares.min():.1f} to {100 * shares.max():.1f} %"
    assert said in found["maps"][0]["text"]
    assert f"speaks for {found['top'][0]['name']}: the gradient" in found["maps"][1]["text"]
    assert f"{100 * layers[-1].prompts[0]:.0f} % goes to the prompts" in found["maps"][2]["text"]
    looks = demo_maps.lookers(place.run.predictor.parts, inputs)
    maps = demo_maps.maps_of(looks, demo_maps.Asked(inputs, 0, "x"))
    np.testing.assert_allclose(maps[0].values, shares.reshape(model.backbone.grid), atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "method", "names"),
    [
        ("vit", "linear", ["Grad-CAM", "Class token"]),
        ("vit", "sa2vp", ["Prompt map", "Grad-CAM"]),
        ("resnet", "linear", ["Grad-CAM"]),
    ],
)
def test_other_methods_have_other_maps(backbone, method, names):
    parts = make(backbone, method)
    model = merge(*parts)
    images = np.random.default_rng(0).standard_normal((2, 1, *model.backbone.image_size, 3))
    images = images.astype(np.float32)
    looks = demo_maps.lookers(parts, images[0])
    first, second = (demo_maps.maps_of(looks, demo_maps.Asked(x, 1, "cat")) for x in images)
    assert [m.name for m in first] == [m.name for m in second] == names
    assert all(np.isfinite(m.values).all() and m.values.min() >= 0 for m in first)
    assert any(np.abs(a.values - b.values).max() > 1e-6 for a, b in zip(first, second, strict=True))


def test_a_frame_of_prompts_is_no_part_of_the_photo():
    values = np.zeros((5, 5))
    values[2, 2] = 1
    asked = demo_maps.Asked(np.zeros((1, 16, 16, 3)), 0, "cat")
    looks = [lambda asked: [demo_maps.Map("Grad-CAM", "", values)]]
    for canvas, shape in ((20, (16, 16)), (16, (5, 5))):
        (found,) = demo_maps.maps_of(demo_maps.Lookers(looks, (canvas, canvas)), asked)
        assert found.values.shape == shape
        np.testing.assert_allclose(found.values, found.values[::-1, ::-1], atol=1e-6)


def test_nearest_training_pictures(place):
    file = sorted((place.photos / "train").rglob("*.png"))[5]
    found = place.demo.look(file.read_bytes())["near"]
    assert len(found) == 6 and found[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert (found[0]["name"], found[0]["file"]) == (file.parent.name, file.name)
    with Image.open(file) as image:
        np.testing.assert_array_equal(opened(found[0]["source"]), np.asarray(image))
    cosines = [near["cosine"] for near in found]
    assert cosines == sorted(cosines, reverse=True) and cosines[0] > cosines[-1]


def test_examples_of_the_test_split(place):
    pages = [place.demo.list_examples(page) for page in range(4)]
    numbers = [[one["number"] for one in page] for page in pages]
    assert [len(page) for page in pages] == [EXAMPLES, EXAMPLES, 4, EXAMPLES]
    assert sorted(sum(numbers[:3], [])) == list(range(20)) and numbers[3] == numbers[0]
    files = sorted((place.photos / "test").rglob("*.png"))
    for one in pages[0]:
        (file,) = (f for f in files if f.name == one["file"] and f.parent.name == one["true"])
        found = place.demo.look_at_example(one["number"])
        expected = place.run.predict(file)
        assert found["true"] == one["true"]
        assert found["top"][0]["share"] == pytest.approx(expected.probabilities.max(), abs=1e-6)
    with pytest.raises(UserError, match="there is no example 20"):
        place.demo.look_at_example(20)


def test_a_photo_leaves_nothing_on_the_disk(place, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in place.folder.rglob("*")}
    with served(place.demo) as server:
        assert server.look(kinds()["grey"][0]).status == 200
        assert server.look(b"\0" * 2_000_000).status == 400
    assert {p: p.stat().st_mtime_ns for p in place.folder.rglob("*")} == before
    assert [p.name for p in tmp_path.rglob("*")] == ["tmp"]


def test_over_the_server_as_from_python(place):
    with served(place.demo) as server:
        for data, words in kinds().values():
            found, here = server.look(data).json, place.demo.look(data)
            assert found["about"] == words
            del found["milliseconds"], here["milliseconds"]
            assert found == here
        one = server.ask("GET", "/examples?page=1").json["examples"][0]
        assert server.ask("POST", f"/examples/{one['number']}").json["true"] == one["true"]


def test_several_classes_an_image(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (16, 8, 8, 1), np.uint8), rng.integers(0, 2, (16, 3))
    model = vpjax.create_model(vpjax.load_backbone("digits_vit"), "finetune.Linear", num_classes=3)
    how = {"steps": 2, "changes": {"train": {"loss": "sigmoid"}}}
    run = vpjax.fit(model, train=(images, labels), workdir=tmp_path / "run", **how)
    found = Demo(run, 5).look(kinds()["grey"][0])
    shares = [top["share"] for top in found["top"]]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and sum(shares) != 1
    names = [top["name"] for top in found["top"] if top["share"] >= 0.5]
    assert sorted(found["several"]) == sorted(names) and found["near"] == []
    with pytest.raises(UserError, match="trained on arrays, which are in no file"):
        nearest_of(run)
