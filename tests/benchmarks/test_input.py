"""The input benchmark on tiny data: every stage is there, and the verdict says what it should."""

import json

import pytest

from benchmarks import input as benchmark
from configs import digits
from vpjax.core.errors import UserError


def tiny(**options):
    config = digits.get_config("vpt_deep")
    config.mesh.data = 1
    config.data.update(**options)
    return config


def stages(record):
    return [r["stage"] for r in record["rows"]]


def test_small_images_are_read_once_into_memory(tmp_path):
    source = benchmark.make_source(tiny(), "small", 40, tmp_path)
    config = tiny()
    config.backbone.image_size = 32
    record = benchmark.benchmark(config, source, batch=8, steps=1)
    assert stages(record) == [
        "read",
        "decode",
        "loader, into memory",
        "loader, from memory",
        "transfer",
        "augment, normalise (device)",
    ]
    assert record["measured"] and record["train_rate"] > 0
    for row in record["rows"]:
        assert row["images_per_second"] * row["ms_per_image"] == pytest.approx(1e3)
    text = benchmark.report(record)
    assert "made-up small images to 32x32, preset digits" in text and "(measured here)" in text
    json.dumps(record, default=list)


@pytest.mark.parametrize(("preset", "kept"), [("inception", True), ("inception_crop", False)])
def test_photos_are_kept_unless_they_are_cropped_at_random(tmp_path, preset, kept):
    source = benchmark.make_source(tiny(), "photos", 20, tmp_path)
    assert source[3]["image"].shape == (375, 500, 3)
    record = benchmark.benchmark(tiny(preset=preset), source, batch=8, train_rate=1e9)
    assert "resize, crop" in stages(record) and "loader, from files" in stages(record)
    assert ("loader, from memory" in stages(record)) == kept
    text = benchmark.report(record)
    assert "(given)" in text and "loader, from files: falls short by 100%" in text
    assert ("or it matters in the first epoch only" in text) == kept


def test_the_verdict_counts_cores():
    rows = [("read", 1.0), ("decode", 5.0), ("resize, crop", 4.0), ("loader, from files", 5.0)]
    record = {
        "rows": [{"stage": s, "ms_per_image": t, "images_per_second": 1e3 / t} for s, t in rows]
    }
    record |= {"train_rate": 800.0, "measured": False}
    text = benchmark.verdict(record)
    assert "falls short by 75%; 8 cores like these would do." in text
    assert "loader, from files: 2.0 times that." in benchmark.verdict(
        record | {"train_rate": 100.0}
    )


def test_the_command_line(tmp_path, capsys):
    out = tmp_path / "x.json"
    options = ["--images=small", "--count=16", "--batch=8", "--train_rate=5", f"--out={out}"]
    benchmark.main(["input", f"--config={digits.__file__}:linear", *options])
    assert "Training takes 5.0 images/s (given)." in capsys.readouterr().out
    assert json.loads(out.read_text())["images"] == "small" and out.with_suffix(".md").exists()
    with pytest.raises(UserError, match="unrecognized arguments"):
        benchmark.main(["input", f"--config={digits.__file__}:linear", "extra"])
