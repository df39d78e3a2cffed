"""The benchmark of seeds at once, on a tiny network."""

from benchmarks import together


def test_both_ways_are_timed():
    chosen = {n: c for n, c in together.cases().items() if n.startswith("vpt_deep")}
    record = together.benchmark(chosen, [2], turns=1)
    (row,) = record["rows"]
    assert row["seeds"] == 2 and min(row["ms_alone"], row["ms_together"], row["ratio"]) > 0
    text = together.report(record)
    assert f"{3.6e6 / together.STEPS / row['ms_together']:.0f}" in text
