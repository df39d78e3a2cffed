"""The comparison with PyTorch: peers compute our functions and learn as we do."""

import collections
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import measure, ours, peer_torch, race, settings, tasks, torch_peer  # noqa: E402
from benchmarks.torch_weights import named  # noqa: E402
from vpjax.core.errors import UserError  # noqa: E402
from vpjax.models.partition import merge, partition  # noqa: E402
from vpjax.nn.context import Context  # noqa: E402

BLOCKED = ("tensorflow", "tensorflow_datasets", "grain", "ml_collections", "clu")
IMPORT = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {BLOCKED!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import benchmarks.peer_torch, benchmarks.all
"""
KINDS = ("vpt_deep_50", "vpt_shallow_50", "linear", "sa2vp")
KINDS += ("cnn_prompt", "resnet18", "vit_tiny_prompt")


def task_of(name):
    return tasks.quiet(tasks.tiny(tasks.TASKS[name]))


@pytest.fixture(scope="module", autouse=True)
def peak():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measure, "peak_flops", lambda dtype: 1e12)
        yield


@pytest.fixture(scope="module")
def record(peak):
    task = task_of("vpt_deep_50")
    return peer_torch.benchmark([task], turns=2, forms=["eager_fp32"])


def test_it_imports_where_only_jax_flax_optax_and_torch_are_installed():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", KINDS)
def test_logits_and_three_training_steps_agree(name):
    task = task_of(name)
    data = ours.make_data(task)
    peer = torch_peer.make_peer(task, data)
    assert peer_torch.difference(task, data, peer) < 1e-5
    side, parts = ours.our_side(task, data, "float32", train=True)
    theirs = torch_peer.peer_side(task, data, peer, "eager", "float32", train=True)
    for _ in range(3):  # momentum shows from the second on
        state, numbers = side.call()
        assert float(numbers["loss"]) == pytest.approx(float(theirs.call()), abs=1e-4)
    after = peer.state_dict()
    learned = named(peer, state.trainable | fused(parts, state) | state.stats)
    rate = 3 * ours.RATE
    for place, value in learned.items():
        # Adam divides by the size of a gradient: where that is next to nothing, rounding decides.
        loose = rate if task.optimiser != "sgd" else 1e-5
        np.testing.assert_allclose(after[place].numpy(), value, atol=loose, err_msg=place)
    changed = [n for n, v in named(peer, data.weights).items() if (after[n].numpy() != v).any()]
    assert set(changed) <= set(learned)
    assert len(changed) > 0.9 * len(learned)


def fused(parts, state):
    """Query, key and value are one matrix there: all three, or none, of each."""
    return {n: v for n, v in parts.frozen.items() if "/attn/" in n and state.trainable.keys() > {n}}


@pytest.mark.parametrize("name", ["full", "cnn", "vit_tiny"])
def test_both_sides_drop_at_as_many_places(name, monkeypatch):
    task = tasks.tiny(tasks.TASKS[name])
    model = ours.make_model(task, "float32", "xla")[0]
    peer = torch_peer.network(task).train()
    mine, theirs = collections.Counter(), collections.Counter()

    def drop(ctx, x, rate, tag):
        mine[rate] += rate > 0
        return x

    def torch_drop(x, p, training):
        theirs[p] += p > 0
        return x

    def mix(q, k, v, dropout_p):
        theirs[dropout_p] += dropout_p > 0
        return v

    monkeypatch.setattr(Context, "dropout", drop)
    monkeypatch.setattr(torch.nn.functional, "dropout", torch_drop)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", mix)
    graph, *parts = partition(model)
    call = lambda *parts: merge(graph, *parts)(jnp.zeros((2, 32, 32, 3)), ctx)["logits"]  # noqa: E731
    ctx = Context(key=jax.random.key(0))
    jax.eval_shape(call, *parts)
    peer(torch.zeros(2, 3, 32, 32))
    assert mine == theirs
    assert mine.total() > 1


def test_rows_are_ours_and_the_peers(record):
    found = [(row["step"], row["dtype"], row["who"]) for row in record["rows"]]
    assert found == [
        (kind, "float32", who) for kind in ("inference", "train") for who in ("ours (xla)", "eager")
    ]
    for row in record["rows"]:
        assert row["steps"] >= 2 and len(row["turn_ms"]) == 2
        assert row["ms_min"] <= row["ms_median"] <= row["ms_max"]
        assert row["task"] == "vpt_deep_50"
    first = record["rows"][0]
    assert first["ours_over_this"] == first["ours_over_this_pairs"] == 1
    assert first["of_floor_peak"] == pytest.approx(
        first["floor_flops"] * first["images_per_second"] / 1e12
    )


def test_the_record_is_kept(record, tmp_path):
    text = peer_torch.report(record)
    measure.save(tmp_path / "peer.json", record, text)
    kept = json.loads((tmp_path / "peer.json").read_text())
    assert kept["tasks"]["vpt_deep_50"]["body"]["variant"] == "B/16"
    assert kept["versions"]["torch"]
    assert text.count("\n| ") == 6  # header, rule, four rows
    assert "logits differ" in text


def test_rows_for_which_there_is_no_time_are_named():
    done = peer_torch.benchmark([task_of("linear")], 1, ["eager_fp32"], minutes=1e-9)
    assert not done["rows"]
    assert "linear train float32" in peer_torch.report(done)


def test_ratios_are_taken_turn_by_turn():
    mine, first = [[2.0], [8.0], [3.0]], [[1.0], [4.0], [1.0]]  # the second turn was disturbed
    found = race.ratios(mine, first)
    assert found["ours_over_this_pairs"] == 2
    assert found["ours_over_this_spread"] == (2, 2.5)
    assert found["ours_over_this"] == 3


def test_a_peer_that_cannot_be_compiled_says_so():
    def fail():
        raise RuntimeError("no C++ compiler\nand more")

    sides = [race.Side("ours (xla)", lambda: None, True), race.Side("compiled", fail)]
    rows = race.race(sides, batch=2, turns=1)
    head = {"task": "full", "step": "train", "dtype": "float32"}
    assert "no C++ compiler" in " ".join(peer_torch.cells(head | rows[1]))
    assert "and more" not in rows[1]["failed"]


def test_tasks_are_found_by_name_and_group():
    assert [t.name for t in peer_torch.listed("small,cnn")] == [
        t.name for t in tasks.GROUPS["small"]
    ]
    with pytest.raises(UserError, match="vpt_deep_50"):
        peer_torch.listed("vpt_deep_5")


def test_an_unknown_form_is_explained():
    with pytest.raises(UserError, match="eager_fp32"):
        peer_torch.benchmark([task_of("linear")], turns=1, forms=["eager_fp23"])


def test_what_a_user_has_set_stays_set(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "OMP_WAIT_POLICY" not in settings.environment()
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert settings.environment()["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_WAIT_POLICY" not in os.environ
