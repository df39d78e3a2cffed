"""The benchmark of trials at once, on a tiny network."""

import argparse

from benchmarks import trials


def test_both_ways_are_timed(monkeypatch):
    monkeypatch.setattr(trials, "METHODS", {"linear": trials.METHODS["linear"]})
    monkeypatch.setattr(trials, "SIZE", {"dim": 16, "mlp_dim": 16, "heads": 2, "depth": 1})
    options = {"variant": "small", "pixels": 16, "batch": 8, "dtype": "float32", "trials": [2]}
    record = trials.benchmark(argparse.Namespace(**options, turns=1))
    assert [r["differ"] for r in record["rows"]] == ["rates", "seeds"]
    assert all(r["ms_alone"] > 0 and r["ms_together"] > 0 for r in record["rows"])
    text = trials.report(record)
    assert f"{trials.hourly(record['rows'][0], 'together'):.0f}" in text
