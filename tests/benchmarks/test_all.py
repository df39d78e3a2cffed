"""All benchmarks at once: parts that fail are told, the page is filled, goals are judged."""

import json
import time

import pytest

from benchmarks import all as every
from benchmarks import goals, page, parts, peer_report
from benchmarks.parts import Part


def fake(name, *options, needs=()):
    same = {"cpu": options}
    return Part(name, "tests.benchmarks.fake_part", same, {"cpu": 1.0}, needs, "floors")


def row(task, step, who, ratio, dtype="float32", **more):
    spread = {"ours_over_this_spread": (0.9 * ratio, 1.1 * ratio), "ours_over_this_pairs": ratio}
    speed = {"ours_over_this": ratio, "images_per_second": 100 / ratio, "batch": 4}
    head = {"task": task, "step": step, "dtype": dtype, "who": who, "peak_bytes": 8e6}
    return head | spread | speed | more


RECORD = {
    "date": "2026-11-21",
    "device": "2 CPU cores",
    "versions": {"torch": "2.13"},
    "left_out": [],
    "rows": [
        row("vpt_deep_50", "train", "ours (xla)", 1.0, of_floor_peak=0.61),
        row("vpt_deep_50", "train", "eager", 1.3),
        row("vpt_deep_50", "train", "compiled", 1.1),
        row("cnn", "train", "ours (xla)", 1.0),
        row("cnn", "train", "eager", 0.8),
        {"task": "cnn", "step": "train", "dtype": "float32", "who": "compiled", "failed": "no g++"},
    ],
}


def test_a_part_that_fails_is_told_and_the_rest_goes_on(tmp_path, capfd):
    chosen = [fake("a", "--fail"), fake("b"), fake("c", needs=("no_such_package",))]
    failed = every.run(chosen, "cpu", tmp_path, "cpu", time.monotonic() + 60)
    assert failed == ["a: exit status 1: error: this part cannot be measured"]
    assert [p.name for p in sorted(tmp_path.glob("*.json"))] == ["b_cpu.json"]
    said = capfd.readouterr().out
    assert "[2/3] b" in said and "min left" in said and "measuring" in said
    assert "c: skipped, as no_such_package is not installed" in said


def test_what_runs_when_the_time_is_up_is_stopped(tmp_path):
    begin = time.monotonic()
    chosen = [fake("a", "--hang"), fake("b")]
    failed = every.run(chosen, "cpu", tmp_path, "cpu", begin + 1)
    assert failed == ["a: stopped, the time is up", "b: left out, the time is up"]
    assert time.monotonic() - begin < 30


@pytest.fixture
def begun(monkeypatch):
    monkeypatch.setattr(every, "find_device", lambda: "cpu")
    return lambda *chosen: [monkeypatch.setattr(m, "PARTS", chosen) for m in (every, parts)]


def test_a_run_fills_the_page_from_its_own_and_earlier_records(begun, tmp_path, capfd):
    begun(fake("floors_fake"), fake("peer_vpt", "--fail"))
    (tmp_path / "peer_vpt_cpu.json").write_text(json.dumps(RECORD))  # of an earlier run
    (tmp_path / "peer_vpt_cpu.md").write_text("# Peers\n")
    target = tmp_path / "performance.md"
    target.write_text("".join(f"{page.begin(n)}\nold\n{page.END}\n" for n in ("floors", "peer")))
    assert every.main(["--folder", str(tmp_path), "--page", str(target)]) == 1  # as one failed
    text = target.read_text()
    assert "measured" in text and "VPT-deep 50" in text and "old" not in text
    said = capfd.readouterr().out
    assert "has no markers for: " in said and "goals" in said
    assert "missed" in said  # the goals are on the screen too


def test_a_rehearsal_leaves_nothing_behind(begun, tmp_path):
    quick = fake("a")._replace(options={"quick": ()}, minutes={"quick": 1.0})
    begun(quick, fake("b", "--fail"))
    assert every.main(["--quick", "--folder", str(tmp_path), "--page", str(tmp_path / "p")]) == 0
    assert not list(tmp_path.iterdir())


def test_every_part_says_how_long_it_takes():
    for part in parts.PARTS:
        assert part.options.keys() == part.minutes.keys()
        assert part.module.startswith("benchmarks.")
    names = [part.name for part in parts.PARTS]
    assert len(names) == len(set(names))
    for platform, limit in every.MINUTES.items():
        assert sum(part.minutes.get(platform, 0) for part in parts.PARTS) <= limit


def test_only_what_is_between_the_markers_is_replaced():
    text = f"before\n{page.begin('a')}\nold\n{page.END}\nafter\n"
    new = page.replaced(text, "a", "new")
    assert new == f"before\n{page.begin('a')}\n\nnew\n\n{page.END}\nafter\n"
    assert page.replaced(new, "a", "new") == new
    assert page.replaced(text, "b", "new") is None


def test_a_marker_without_an_end_takes_nothing_else():
    text = f"{page.begin('a')}\nold\n{page.begin('b')}\nb\n{page.END}\n"
    assert page.replaced(text, "a", "new") is None
    assert "new" in page.replaced(text, "b", "new")


def test_the_page_of_this_repository_has_a_place_for_everything():
    text = every.PAGE.read_text()
    names = {"goals", "peer", "plot", *(part.table for part in parts.PARTS if part.table)}
    for name in {*names, "goals-gpu", "peer-gpu", "plot-gpu"}:
        assert page.replaced(text, name, "new"), name


def test_a_page_says_which_markers_it_lacks(tmp_path):
    target = tmp_path / "page.md"
    target.write_text(f"{page.begin('a')}\n{page.END}\n")
    assert page.fill(target, {"a": "x", "b": "y"}) == ["b"]
    assert "x" in target.read_text()
    assert page.fill(tmp_path / "none.md", {"a": "x"}) == ["a"]
    assert not (tmp_path / "none.md").exists()


def test_the_best_peer_counts():
    found = goals.against("vpt_deep_50", "train", "float32")({"p": RECORD})
    assert found == (1.1, "compiled, 0.99 to 1.21", True)
    only = {"rows": RECORD["rows"][:2]}  # what compiles may be faster yet
    goal = goals.Goal("speed", "cpu", 1.0, goals.against("vpt_deep_50", "train", "float32"))
    assert goal.verdict({"p": only})[0] == "not measured"
    assert goal._replace(bound=1.4).verdict({"p": only})[0] == "missed"


@pytest.mark.parametrize("bound, said", [(1.0, "met"), (1.1, "met"), (1.15, "missed")])
def test_a_goal_is_met_missed_or_not_measured(bound, said):
    find = goals.against("vpt_deep_50", "train", "float32")
    goal = goals.Goal("speed", "cpu", bound, find)
    assert goal.verdict({"p": RECORD})[0] == said
    assert goal.verdict({}) == ("not measured", None)
    assert goal._replace(least=False, bound=1.2).verdict({"p": RECORD})[0] == "met"


def test_the_worst_task_is_named_and_those_that_are_missing():
    found = goals.worst("train", ["cnn", "full"])({"p": RECORD})
    assert found.value == 0.8
    assert found.note.startswith("cnn; eager") and "not measured: full" in found.note
    assert not found.whole


def test_goals_are_those_of_the_device():
    ways = {d: goals.verdicts({}, d) for d in ("cpu", "gpu NVIDIA H200", "gpu NVIDIA A100")}
    assert all(line[-1] == "not measured" for lines in ways.values() for line in lines)
    names = {device: [line[0] for line in lines] for device, lines in ways.items()}
    assert "images/s" in names["gpu NVIDIA H200"] and "images/s" not in names["gpu NVIDIA A100"]
    assert "share of peak" not in names["cpu"]


def test_goals_of_a_gpu():
    same = {"dtype": "bfloat16", "task": "vpt_deep_50", "step": "train"}
    mine = row(who="ours (cudnn)", ratio=1.0, of_floor_peak=0.55, **same)
    lean = row(who="ours (cudnn, remat full)", ratio=1.2, temporary_bytes=20e6, **same)
    eager = row("vpt_deep_50", "train", "eager", 12.0) | {"peak_bytes": 16e6}
    record = {"rows": [mine, lean, row(who="compiled", ratio=1.2, **same), eager]}
    lines = {line[0]: line[-2:] for line in goals.verdicts({"p": record}, "gpu NVIDIA H200")}
    assert lines["share of peak"] == ["55.0%", "met"]
    assert lines["... stretch"][1] == lines["times compiled"][1] == lines["images/s"][1] == "missed"
    assert lines["times eager float32"] == ["12.00", "met"]
    assert lines["memory over eager float32"] == ["0.50", "missed"]
    assert lines["MB an image with block remat"] == ["5.00", "met"]


def test_the_compiled_step_furthest_above_its_floor_is_named():
    steps = {"inference": {"compiled_flops": 1.01, "floor_flops": 1.0}}
    steps["training"] = {"compiled_flops": 2.1, "floor_flops": 2.0}
    record = {"benchmark": "floors", "rows": [{"model": "B", "method": "full"} | steps]}
    found = goals.above_floor({"floors": record})
    assert found == (1.05, "B, full, training; 1 of 2 above 1.03", True)


def test_the_first_step_is_timed_cold_and_warm():
    record = {"starts": {"cold": [{"total": 30.0}, {"total": 50.0}, {"total": 39.0}]}}
    assert goals.startup("cold")({"startup": record}) == (39.0, "", True)
    assert goals.startup("warm")({"startup": record}) is None


def test_races_are_a_line_a_task_and_step():
    text = peer_report.report(RECORD["rows"])
    assert text.count("\n") == 3  # header, rule, two races
    assert "1.30 [1.17 .. 1.43]" in text and "61.0%" in text


def test_races_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    peer_report.plot(RECORD["rows"], tmp_path / "races.png")
    assert (tmp_path / "races.png").stat().st_size > 1000
