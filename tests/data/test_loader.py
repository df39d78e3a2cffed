"""Order, resuming, processes, padding: what every batch holds."""

import itertools
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import Memory, numbered
from vpjax.core.errors import UserError
from vpjax.data import Loader, loader, open_source, preset
from vpjax.data.records import Record
from vpjax.data.source import Source

DIGITS = preset("digits")


def numbers(batch):
    """Returns which example each row of a batch holds; padding counts as -1."""
    return np.where(batch["mask"], batch["image"][:, 0, 0, 0].astype(int), -1)


def take(batches, n):
    return list(itertools.islice(batches, n))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_one_form():
    source = numbered(20)
    batch = next(Loader(source, 8, DIGITS, 4).batches())
    assert batch["image"].shape == (8, 4, 4, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (8,) and batch["label"].dtype == np.int32
    assert batch["mask"].shape == (8,) and batch["mask"].dtype == bool and batch["mask"].all()
    assert (batch["label"] == numbers(batch) % 10).all()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 5))
def test_wrapped_epochs_hold_every_example_once(n, size, seed):
    size = min(n, size)
    train = Loader(numbered(n), size, DIGITS, 4, seed=seed)
    seen = np.concatenate([train.indices(step) for step in range(3 * n)])
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert train.steps_per_epoch == math.ceil(n / size)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(8, 60), group=st.sampled_from([2, 4]), seed=st.integers(0, 5))
def test_images_of_a_class_in_groups(n, group, seed):
    make = lambda: Loader(  # noqa: E731
        numbered(n), 8, DIGITS, 4, seed=seed, remainder="keep", images_per_class=group
    )
    train = make()
    seen = [train.indices(step) for step in range(2 * train.steps_per_epoch)]
    order = np.concatenate(seen)
    order = order[order >= 0]
    assert sorted(order[:n]) == sorted(order[n:]) == list(range(n))
    assert n < 20 or order[:n].tolist() != order[n:].tolist()
    whole = sum(count // group for count in np.bincount(np.arange(n) % 10)) * group
    labels = order[:whole].reshape(-1, group) % 10  # classes of `numbered`
    assert (labels == labels[:, :1]).all()
    np.testing.assert_array_equal(make().indices(3), train.indices(3))


@pytest.mark.parametrize(("size", "group"), [(8, 3), (8, 0)])
def test_groups_that_cannot_be(size, group):
    with pytest.raises(UserError, match=f"images_per_class is {group}"):
        Loader(numbered(20), size, DIGITS, 4, images_per_class=group)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 60), step=st.integers(0, 40))
def test_keep_pads_the_last_batch_of_each_epoch(n, size, step):
    train = Loader(numbered(n), size, DIGITS, 4, remainder="keep")
    epoch = step // train.steps_per_epoch * train.steps_per_epoch
    steps = range(epoch, epoch + train.steps_per_epoch)
    seen = np.concatenate([train.indices(s) for s in steps])
    assert len(seen) == size * train.steps_per_epoch
    assert sorted(seen[seen >= 0]) == list(range(n))


def test_drop_leaves_out_what_fills_no_batch():
    train = Loader(numbered(20), 8, DIGITS, 4, remainder="drop")
    assert train.steps_per_epoch == 2
    first, second = ([*train.indices(s), *train.indices(s + 1)] for s in (0, 2))
    assert len(set(first)) == len(set(second)) == 16 and set(first) != set(second)


def test_order_depends_on_seed_and_epoch_alone():
    one, same = (Loader(numbered(50), 50, DIGITS, 4, seed=3) for _ in range(2))
    other = Loader(numbered(50), 50, DIGITS, 4, seed=4)
    assert (one.indices(2) == same.indices(2)).all()
    assert (one.indices(2) != one.indices(1)).any()
    assert (one.indices(2) != other.indices(2)).any()
    # Written down once: the order of old runs must not change with a library's version.
    assert one.indices(0)[:8].tolist() == [43, 6, 13, 31, 26, 1, 34, 18]


def photos(n=13):
    """A source whose images differ in size."""
    rng = np.random.default_rng(0)
    shapes = [(int(rng.integers(20, 30)), int(rng.integers(20, 30)), 3) for _ in range(n)]
    records = [Record(rng.integers(0, 256, s, np.uint8), i % 4) for i, s in enumerate(shapes)]
    return Source("photos[train]", "abcd", Memory(records), (None, None, 3))


CASES = {
    "memory": (numbered(13), "digits", 4),
    "crops": (photos(), "vpt_fgvc", 16),
    "cached photos": (photos(), "sa2vp_vtab", 16),
    "float photos": (photos(), "vpt_vtab", 16),
}


@pytest.mark.parametrize("remainder", ["wrap", "drop", "keep"])
@pytest.mark.parametrize("case", CASES)
def test_resuming_is_bitwise(case, remainder):
    source, name, size = CASES[case]
    make = lambda: Loader(source, 4, preset(name), size, seed=1, remainder=remainder)  # noqa: E731
    whole = take(make().batches(), 12)
    for start in (0, 1, 5):
        for one, other in zip(take(make().batches(start), 12 - start), whole[start:], strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_same_global_batches_for_any_number_of_processes(case, train):
    source, name, size = CASES[case]
    whole = take(Loader(source, 4, preset(name), size, train=train).batches(), 8)
    for count in (2, 4):
        parts = [
            take(Loader(source, 4, preset(name), size, 0, train, p, count).batches(), 8)
            for p in range(count)
        ]
        assert all(len(part) == len(whole) for part in parts)
        for step, expected in enumerate(whole):
            joined = {key: np.concatenate([part[step][key] for part in parts]) for key in expected}
            assert_equal(joined, expected)


def test_crops_differ_between_epochs_and_rows():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 60, 3), np.uint8)
    source = Source("one[train]", "a", Memory([Record(photo, 0)] * 4), (60, 60, 3))
    batches = take(Loader(source, 4, preset("vpt_fgvc"), 56).batches(), 3)
    assert len({image.tobytes() for batch in batches for image in batch["image"]}) > 6


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 50), size=st.integers(1, 16))
def test_evaluation_sees_every_example_once_in_order(n, size):
    batches = list(Loader(numbered(n), size, DIGITS, 4, train=False).batches())
    assert all(batch["image"].shape == (size, 4, 4, 3) for batch in batches)
    assert sum(int(batch["mask"].sum()) for batch in batches) == n
    seen = np.concatenate([numbers(batch) for batch in batches])
    assert seen[:n].tolist() == list(range(n)) and (seen[n:] == -1).all()
    assert len(batches) == math.ceil(n / size)


def test_evaluation_can_be_repeated():
    evaluation = Loader(photos(), 4, preset("sa2vp_vtab"), 16, train=False)
    for one, other in zip(evaluation.batches(), evaluation.batches(), strict=True):
        assert_equal(one, other)


def test_streaming_equals_memory(monkeypatch, data_dir):
    cases = [("cifar10", "inception", 64), ("oxford_flowers102", "vpt_vtab", 16)]
    for name, chosen, size in cases:
        source = open_source(name, "train", data_dir)
        kept = Loader(source, 8, preset(chosen), size)
        assert kept._memory is not None
        with monkeypatch.context() as patch:
            patch.setattr(loader, "MEMORY", 0)
            streamed = Loader(source, 8, preset(chosen), size)
        assert streamed._memory is None
        for one, other in zip(take(kept.batches(), 4), take(streamed.batches(), 4), strict=True):
            assert_equal(one, other)


def test_real_sets(data_dir):
    """Images of one size leave the host as they are if they are to grow; photos are resized."""
    shapes = {}
    for name in ("cifar10", "mnist", "oxford_flowers102", "eurosat/rgb"):
        source = open_source(name, "train", data_dir)
        batch = next(Loader(source, 8, preset("inception"), 48).batches())
        shapes[name] = batch["image"].shape[1:]
        out = preset("inception").device(batch["image"], 48, True)
        assert out.shape == (8, 48, 48, 3)
    assert shapes == {
        "cifar10": (32, 32, 3),
        "mnist": (28, 28, 1),
        "oxford_flowers102": (48, 48, 3),
        "eurosat/rgb": (48, 48, 3),
    }


def test_sizes_that_do_not_fit():
    with pytest.raises(UserError, match="batch size 21 is larger than the 20 examples of numbers"):
        Loader(numbered(20), 21, DIGITS, 4)
    with pytest.raises(UserError, match="batch size 9 cannot be divided among 2 processes"):
        Loader(numbered(20), 9, DIGITS, 4, process_count=2)
    with pytest.raises(UserError, match="batch size 0"):
        Loader(numbered(20), 0, DIGITS, 4)
    with pytest.raises(UserError, match="process index 2 is not in 0..1"):
        Loader(numbered(20), 8, DIGITS, 4, process_index=2, process_count=2)
    with pytest.raises(UserError, match="'pad' is not for training. Choose wrap or drop or keep"):
        Loader(numbered(20), 8, DIGITS, 4, remainder="pad")
    with pytest.raises(UserError, match="'wrap' is not for evaluation. Choose pad"):
        Loader(numbered(20), 8, DIGITS, 4, train=False, remainder="wrap")
    with pytest.raises(UserError, match="has no examples"):
        Loader(numbered(0), 8, DIGITS, 4)
    assert len(Loader(numbered(3), 8, DIGITS, 4, remainder="keep").batch(0)["mask"]) == 8


@pytest.mark.parametrize("remainder", ["wrap", "drop", "keep"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_that_devices_do_not_divide_is_padded(remainder, count):
    order = {"seed": 5, "remainder": remainder}
    plain = Loader(numbered(23), 10, DIGITS, 4, **order)
    parts = [
        Loader(
            numbered(23), 10, DIGITS, 4, process_index=p, process_count=count, multiple=6, **order
        )
        for p in range(count)
    ]
    assert {part.steps_per_epoch for part in parts} == {plain.steps_per_epoch}
    for step in range(4):
        whole = plain.batch(step)
        found = {k: np.concatenate([part.batch(step)[k] for part in parts]) for k in whole}
        assert len(found["mask"]) == 12 and found["mask"].sum() == whole["mask"].sum()
        for key, value in whole.items():
            np.testing.assert_array_equal(found[key][:10], value)
        assert not found["mask"][10:].any() and not found["image"][10:].any()


def test_an_evaluation_that_devices_do_not_divide_sees_each_image_once():
    batches = list(Loader(numbered(23), 10, DIGITS, 4, train=False, multiple=8).batches())
    assert [len(b["mask"]) for b in batches] == [16, 16, 16]
    assert [int(b["mask"].sum()) for b in batches] == [10, 10, 3]


def test_wrong_labels_and_images_are_found_before_training():
    good = np.zeros((4, 4, 3), np.uint8)
    labels = Source("s[train]", "ab", Memory([Record(good, 0), Record(good, 2)]), (4, 4, 3))
    with pytest.raises(UserError, match="example 1 has label 2"):
        Loader(labels, 1, DIGITS, 4)
    broken = Source("s[train]", "ab", Memory([Record(good, 0), Record(b"", 1)]), (4, 4, 3))
    with pytest.raises(UserError, match="example 1 is not a readable image"):
        Loader(broken, 1, DIGITS, 4)


def test_errors_of_reading_threads_reach_the_caller(monkeypatch):
    monkeypatch.setattr(loader, "MEMORY", 0)
    good = np.zeros((30, 20, 3), np.uint8)
    for wrong, match in [
        (Record(b"", 1, "x.jpg"), r"s\[train\]: example 1 \(x.jpg\) is not a readable image"),
        (Record(good, -1), r"s\[train\]: example 1 has label -1"),
    ]:
        source = Source("s[train]", "ab", Memory([Record(good, 0), wrong]), (None, None, 3))
        with pytest.raises(UserError, match=match):
            take(Loader(source, 1, preset("vpt_fgvc"), 16).batches(), 4)


def test_threads_end_with_the_iterator():
    before = set(threading.enumerate())
    batches = Loader(photos(), 4, preset("vpt_fgvc"), 16).batches()
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


def test_without_reshuffling_every_epoch_repeats_the_first():
    train = Loader(numbered(10), 5, DIGITS, 4, reshuffle=False)
    orders = [np.concatenate([train.indices(2 * e), train.indices(2 * e + 1)]) for e in range(3)]
    np.testing.assert_array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])
    again = Loader(numbered(10), 5, DIGITS, 4)
    assert not np.array_equal(again.indices(0), again.indices(2))
