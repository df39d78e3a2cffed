"""The memory benchmark on a tiny model; its claims, which must be able to fail."""

import json
import subprocess
import sys

import pytest

from benchmarks import memory, memory_cell
from benchmarks.memory_cell import Cell
from benchmarks.memory_report import claims, exponent, report
from vpjax.core.errors import UserError

BLOCKED = ("tensorflow", "tensorflow_datasets", "grain", "ml_collections", "clu", "matplotlib")
IMPORT = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {BLOCKED!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import benchmarks.memory, benchmarks.memory_cell
"""
QUICK = ["--models=Ti/16", "--layers=2", "--pixels=336", "--depths=deep", "--batch=4"]
QUICK += ["--segments=", "--only=remat=off|flash=on"]


def options(*arguments):
    return memory.parser().parse_args(arguments)


def rows(depth=12, mistake=lambda row: row):
    """Returns made-up rows for which every claim holds, but for what `mistake` changes."""
    out = []
    for size in (100, 200, 400):
        for flash, remat in ((0, 0), (1, 0), (0, 1), (1, 1)):
            cell = Cell("B/16", size, deep=True, flash=bool(flash), remat=bool(remat))
            square = 0 if flash else size**2
            row = cell._asdict() | {"name": cell.name, "attention": "x", "tokens": size}
            row |= {"queries": size, "keys": size}
            row |= {"temporary_bytes": (1 if remat else depth) * (1000 * size + 50 * square)}
            row |= {"logits_differ": 1e-6, "gradient_differs": 1e-6, "gradient_least": 0.1}
            if not flash:
                row |= {"flops": 3e9 if remat else 2e9}
            if not flash and not remat:
                row |= {"forward_flops": 1e9}
            out.append(mistake(row))
    return out


def broken(**wrong):
    """Returns a mistake in one row with flash and remat."""

    def mistake(row):
        return row | wrong if row["name"].startswith("B/16 400 px deep flash=on") else row

    return mistake


def test_the_command_measures_compares_and_checks(tmp_path):
    out = tmp_path / "new" / "memory.json"
    command = [sys.executable, "-m", "benchmarks.memory", *QUICK, f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads(out.read_text())
    assert [row["name"].removeprefix("Ti/16 336 px deep ") for row in kept["rows"]] == [
        "flash=off remat=off",
        "flash=on remat=off",
        "flash=on remat=on",
    ]
    plain, flash, both = kept["rows"]
    assert plain["temporary_bytes"] > flash["temporary_bytes"] > both["temporary_bytes"]
    assert 1.7 < plain["flops"] / plain["forward_flops"] < 2.3  # no gradient of a frozen weight
    for row in kept["rows"]:
        assert row["logits_differ"] < 1e-5
        assert row["gradient_differs"] < 1e-4
        assert row["gradient_least"] > 0
        assert row["attention"] == ("blockwise" if row["flash"] else "xla")
        assert (row["tokens"], row["queries"], row["keys"]) == (542, 442, 542)
    assert "[3/3]" in done.stdout
    assert out.with_suffix(".md").read_text() in done.stdout
    assert out.with_suffix(".png").read_bytes()[1:4] == b"PNG"


def test_it_imports_where_only_jax_flax_and_optax_are_installed():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_steps_run_where_asked_for(tmp_path):
    cell = Cell("Ti/16", 32, deep=False, num_tokens=2, layers=1, batch=2, steps=2)
    row = memory_cell.measure_cell(cell, tmp_path)
    assert row["steps"] == 2
    assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]
    assert row["logits_differ"] == row["gradient_differs"] == 0  # it is the plain path


def test_all_claims_hold_of_rows_as_they_should_be():
    assert {c.holds for c in claims(rows())} == {True}


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [
        ({"gradient_least": 0.0}, "(a)"),
        ({"logits_differ": 2e-5}, "(b)"),
        ({"gradient_differs": 2e-4}, "(b)"),
        ({"logits_differ": float("nan")}, "(b)"),
        ({"temporary_bytes": 10**12}, "(c)"),
    ],
)
def test_a_claim_fails_and_names_the_cell(wrong, claim):
    failed = [c for c in claims(rows(mistake=broken(**wrong))) if not c.holds]
    assert failed
    for found in failed:
        assert found.text.startswith(claim)
        assert "flash" in found.detail


def test_remat_that_costs_more_than_a_forward_pass_fails():
    more = lambda row: row | {"flops": 3.1e9} if row["remat"] and not row["flash"] else row  # noqa: E731
    failed = [c for c in claims(rows(mistake=more)) if not c.holds]
    assert [c.text[:3] for c in failed] == ["(d)"]
    assert "1.100 forward passes" in failed[0].detail


def test_growth_is_told_apart():
    line = lambda need: [{"queries": q, "temporary_bytes": need(q)} for q in (50, 200, 450)]  # noqa: E731
    assert exponent(line(lambda q: 3 * q)) == pytest.approx(1)
    assert exponent(line(lambda q: 2 * q * q)) == pytest.approx(2)
    assert exponent(line(lambda q: max(q, 150))) == pytest.approx(1)  # a floor at small sizes
    assert exponent(line(lambda q: q)[:1]) is None


@pytest.mark.parametrize(
    ("bytes_of", "detail"),
    [
        (lambda q, flash: (9 if flash else 10) * q * q, "with flash, tokens to the power of 2.00"),
        (lambda q, flash: (9 if flash else 10) * q, "saved by flash, tokens to the power of 1.00"),
        (lambda q, flash: 10 * q, "saved by flash, tokens to the power of 0.00"),
    ],
)
def test_flash_in_name_only_fails(bytes_of, detail):
    def mistake(row):
        return row | {"temporary_bytes": bytes_of(row["queries"], row["flash"])}

    assert detail in "".join(c.detail for c in claims(rows(mistake=mistake)) if not c.holds)


def test_a_cell_that_failed_is_told_and_the_rest_is_checked():
    lost = [{k: v for k, v in r.items() if k in Cell._fields or k == "name"} for r in rows()[:4]]
    lost = [row | {"failed": "out of memory"} for row in lost]
    kept = [*lost, *rows()[4:]]
    found = claims(kept)
    assert {c.holds for c in found} == {True}
    text = report(conditions() | {"rows": kept}, found)
    assert "flash=off remat=off: out of memory" in text
    assert {c.holds for c in claims(lost)} == {None}


def test_a_cell_that_dies_is_a_row():
    row = memory.measured(Cell("X/16", 32, deep=False), "nowhere", "")
    assert "unknown ViT variant" in row["failed"]
    assert row["name"] == "X/16 32 px shallow flash=off remat=off"


def conditions():
    return {"date": "", "device": "", "python": "", "versions": {}, "xla_flags": ""}


def test_the_table_of_the_specification_is_what_runs_by_default():
    found = memory.cells(options())
    assert len(found) == len(set(found)) == 2 * 3 * 2 * 4 + 5 * 2 * 2
    assert found[0] == found[0].plain
    assert {c.segments for c in found} == {0, 1, 2, 3, 4, 6}  # 12 is a layer each
    assert {c.model for c in found if c.segments} == {"B/16"}
    assert {c.pixels for c in found if c.segments} == {224}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--models=Q/16"], "unknown ViT variant"),
        (["--depths=depe"], "Did you mean 'deep'"),
        (["--pixels=224,big"], "--pixels is '224,big'"),
        (["--segments=0"], "--segments is '0'"),
        (["--dtype=float16"], "choose float32 or bfloat16"),
        (["--batch=0"], "above 0"),
        (["--only=nothing"], "matches none of 68 cells"),
        (["--only=("], "not a regular expression"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(arguments, match):
    with pytest.raises(UserError, match=match):
        memory.cells(options(*arguments))
