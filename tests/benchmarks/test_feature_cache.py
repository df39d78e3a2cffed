"""The benchmark of the feature cache on a tiny model."""

from benchmarks import feature_cache


def test_every_method_has_a_row():
    sizes = {"patch_size": 8, "dim": 16, "mlp_dim": 24, "heads": 2, "depth": 2, "joint_dim": 8}
    sizes |= {"image_size": 16}
    record = feature_cache.benchmark("B/32", 8, 32, 5, 1, **sizes)
    assert [row["method"] for row in record["rows"]] == list(feature_cache.METHODS)
    assert all(row["through"] > 0 and row["on_features"] > 0 for row in record["rows"])
    text = feature_cache.report(record)
    assert "times faster" in text and "mop.MoP" in text
