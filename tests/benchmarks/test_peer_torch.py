"""The comparison with PyTorch: the peer computes our function and learns as we do."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import measure, peer_torch  # noqa: E402
from vpjax.errors import UserError  # noqa: E402

TASK = peer_torch.Task("Ti/16", image_size=32, num_tokens=3, batch=2)
BLOCKED = ("tensorflow", "tensorflow_datasets", "grain", "ml_collections", "clu")
IMPORT = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {BLOCKED!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import benchmarks.peer_torch
"""


@pytest.fixture(scope="module")
def data():
    return peer_torch.make_data(TASK)


@pytest.fixture(scope="module")
def record():
    return peer_torch.benchmark(TASK, steps=2, forms=["eager_fp32"])


def test_it_imports_where_only_jax_flax_optax_and_torch_are_installed():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_logits_agree(data):
    assert peer_torch.difference(TASK, data, peer_torch.make_peer(TASK, data)) < 1e-5


def test_training_steps_agree(data):
    peer = peer_torch.make_peer(TASK, data)
    ours = peer_torch.our_side(TASK, data, "float32", train=True)
    theirs = peer_torch.peer_side(peer, data, "eager", "float32", train=True)
    for _ in range(3):  # momentum shows from the second on
        state, numbers = ours.call()
        loss = theirs.call()
        assert float(numbers["loss"]) == pytest.approx(float(loss.detach()), abs=1e-5)
    learned = state.trainable
    for i in range(len(peer.blocks)):
        prompts = peer.prompts[i].detach().numpy()
        name = f"method/prompts/{i}"
        assert np.abs(prompts - data.weights[name]).max() > 0
        np.testing.assert_allclose(learned[name], prompts, atol=1e-6)
    head = peer.head.weight.detach().numpy()
    np.testing.assert_allclose(learned["method/head/kernel"].T, head, atol=1e-6)


def test_rows_are_ours_and_the_peers(record):
    found = [(row["step"], row["dtype"], row["who"]) for row in record["rows"]]
    assert found == [
        (kind, "float32", who) for kind in ("inference", "train") for who in ("ours (xla)", "eager")
    ]
    for row in record["rows"]:
        assert row["steps"] == 2
        assert row["ms_min"] <= row["ms_median"] <= row["ms_max"]
    assert record["rows"][0]["ours_over_this"] == 1


def test_the_record_is_kept(record, tmp_path):
    text = peer_torch.report(record)
    measure.save(tmp_path / "peer.json", record, text)
    kept = json.loads((tmp_path / "peer.json").read_text())
    assert kept["task"]["variant"] == "Ti/16"
    assert kept["versions"]["torch"]
    assert text.count("\n| ") == 6  # header, rule, four rows
    assert "logits differ" in text


def test_a_peer_that_cannot_be_compiled_says_so():
    def fail():
        raise RuntimeError("no C++ compiler\nand more")

    ours = peer_torch.Side("ours (xla)", lambda: None)
    rows = peer_torch.race([ours, peer_torch.Side("compiled", fail)], batch=2, steps=1)
    head = {"step": "train", "dtype": "float32"}
    assert "no C++ compiler" in " ".join(peer_torch.cells(head | rows[1]))
    assert "and more" not in rows[1]["failed"]


def test_an_unknown_form_is_explained():
    with pytest.raises(UserError, match="eager_fp32"):
        peer_torch.benchmark(TASK, steps=1, forms=["eager_fp23"])
