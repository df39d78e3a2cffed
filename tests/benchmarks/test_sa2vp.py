"""The SA2VP benchmark on a tiny model: ours needs less."""

import pytest

from benchmarks import sa2vp


@pytest.mark.slow
def test_ours_needs_less_than_the_formulas_written_out():
    sizes = {"dim": 24, "mlp_dim": 48, "heads": 2, "depth": 3, "patch_size": 32}
    record = sa2vp.benchmark("vit", 2, **sizes)
    rows = {(r["step"], r["dropout"], r["method"]): r for r in record["rows"]}
    for step in ("eval", "train"):
        plain, ours = (rows[step, 0.0, name] for name in ("PlainSA2VP", "SA2VP"))
        assert ours["flops_per_image"] < plain["flops_per_image"]
        assert ours["floor_flops"] == plain["floor_flops"] < ours["flops_per_image"]
    assert ours["temporary_bytes"] < plain["temporary_bytes"]  # of training
    assert rows["train", 0.1, "SA2VP"]["flops_per_image"] > ours["flops_per_image"]
    text = sa2vp.report(record)
    assert text.count("written out") == 2
    assert "of published" in text
