"""Batches whose order is a pure function of (seed, step).

    epoch 0            epoch 1
    |3 0 4 1 2 5 6 | 5 1 6 0 2 ...     a permutation for each epoch, made from (seed, epoch)
    |-step 0-|-step 1-|-step 2-| ...   a batch is the next `batch_size` positions

Nothing needs to be saved to resume but the step, and any number of processes sees the same global
batches: process p of P takes the p-th part of every one. Grain's threads prepare batches ahead;
each asks for a step and gets a whole batch.
"""

import functools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64

from vpjax.core.errors import UserError
from vpjax.core.size import pair
from vpjax.data.lazy import Lazy
from vpjax.data.records import label_message
from vpjax.data.source import Source
from vpjax.data.transforms import Preset

grain = Lazy("grain")  # evaluation of a model needs no batches
MEMORY = 2 * 1024**3  # bytes up to which images are kept decoded
AHEAD = 4  # batches prepared in advance
FOREVER = 2**60  # steps
TRAIN_REMAINDERS = ("wrap", "drop", "keep")


class Order:
    """Which examples each batch holds.

    Args:
        source: the data.
        batch_size: images of a batch, over all processes.
        seed: of the order.
        train: whether to shuffle, without end; otherwise one pass in the order of the source.
        process_index: which part of each batch is this process's.
        process_count: number of processes.
        remainder: the images that do not fill a batch: "wrap" (default of training) lets a batch
            span two epochs, "drop" leaves them out, "keep" makes a short last batch, padded and
            masked; "pad" (evaluation) does the same in one pass.
        reshuffle: whether every epoch has an order of its own; otherwise all have the first's.
        images_per_class: in training, how many images of one class follow each other; the images of
            a class that are left over come at the end of the epoch.
        multiple: of this many rows; a batch has `batch_size` images and is padded to it, masked.

    Attributes:
        steps_per_epoch: batches after which every image has been seen (with "drop": every image of
            a whole batch).

    Raises:
        UserError: for an empty source, or a batch size that does not suit the number of images or
            processes.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int = 0,
        train: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        remainder: str | None = None,
        reshuffle: bool = True,
        multiple: int = 1,
        images_per_class: int = 1,
    ):
        self.source, self.batch_size = source, batch_size
        self._size = batch_size + -batch_size % multiple
        self.seed, self.train, self.reshuffle = seed % 2**64, train, reshuffle
        self.images_per_class = images_per_class
        self.remainder = remainder or ("wrap" if train else "pad")
        self._check(process_index, process_count)
        share = self._size // process_count
        self._rows = range(process_index * share, (process_index + 1) * share)
        n = len(source)
        whole = n // batch_size
        self.steps_per_epoch = whole if self.remainder == "drop" else math.ceil(n / batch_size)
        # An epoch's permutation is needed by several threads and steps.
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    def _check(self, process_index, process_count):
        n, b, name = len(self.source), self.batch_size, self.source.name
        k = self.images_per_class
        allowed = TRAIN_REMAINDERS if self.train else ("pad",)
        if self.remainder not in allowed:
            use = "training" if self.train else "evaluation"
            raise UserError(
                f"remainder {self.remainder!r} is not for {use}. Choose {' or '.join(allowed)}."
            )
        if not n:
            raise UserError(f"{name} has no examples. Choose another split.")
        if k < 1 or b % k or (k > 1 and self.source.multilabel):
            raise UserError(
                f"images_per_class is {k} and the batch size {b}: give a divisor of the batch "
                f"size, and 1 where images have several classes. {name} has {n} images."
            )
        if b < 1 or self._size % process_count:
            raise UserError(
                f"batch size {b} cannot be divided among {process_count} processes. Choose a "
                f"positive multiple of {process_count}."
            )
        if not 0 <= process_index < process_count:
            raise UserError(
                f"process index {process_index} is not in 0..{process_count - 1}: there are "
                f"{process_count} processes."
            )
        if b > n and self.remainder in ("wrap", "drop"):
            raise UserError(
                f"batch size {b} is larger than the {n} examples of {name}. Choose a batch size "
                f"of at most {n}, or remainder 'keep'."
            )

    def indices(self, step: int) -> Int64[np.ndarray, " rows"]:
        """Return which examples the global batch of a step holds; -1 is padding."""
        n, b = len(self.source), self.batch_size
        if self.remainder == "wrap":
            positions = np.arange(step * b, (step + 1) * b)
            epochs = positions // n
            orders = [self._order(int(e))[positions[epochs == e] % n] for e in np.unique(epochs)]
            return np.concatenate([*orders, np.full(self._size - b, -1)])
        epoch, step = divmod(step, self.steps_per_epoch)
        taken = self._order(epoch)[step * b : (step + 1) * b]
        return np.concatenate([taken, np.full(self._size - len(taken), -1)])

    def _make_order(self, epoch):
        n = len(self.source)
        if not self.train:
            return np.arange(n)
        epoch = epoch if self.reshuffle else 0
        # Sorted raw bits: numpy promises these for ever, unlike its own permutation.
        bits = np.random.Philox(key=[self.seed, 0], counter=[0, 0, 0, epoch]).random_raw(n)
        order = np.argsort(bits, kind="stable")
        if self.images_per_class == 1:
            return order
        return grouped(order, self.source.labels()[order], self.images_per_class)


def grouped(
    order: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], size: int
) -> Int64[np.ndarray, " n"]:
    """Return the order with groups of one class, each where its last image was; the rest follows.

    Args:
        order: of the images.
        labels: theirs, in that order.
        size: images of a group.
    """
    waiting, groups = {}, []
    for i, label in zip(order.tolist(), labels.tolist(), strict=True):
        group = waiting.setdefault(label, [])
        group.append(i)
        if len(group) == size:
            groups += waiting.pop(label)
    return np.array([*groups, *(i for group in waiting.values() for i in group)], np.int64)


class Loader(Order):
    """Batches of a source for one process, in the order of `Order`.

    Images are kept in memory where they fit in 2 GiB. Every label is then checked at once, and
    images of equal size are all decoded; photos are decoded when first used, unless training crops
    them at random. Larger data sets are read as training goes.

    Args:
        preset: preprocessing, of which the host's part is done here.
        image_size: pixels, an edge or (height, width).
        keep: whether images may be kept in memory; not where each is read only once.
        augment: whether the host's random operations act; None: in training.
        source, batch_size and the others: see `Order`.

    Raises:
        UserError: as `Order` does, and for a wrong label or image, or a preset that does not suit
            the images.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        preset: Preset,
        image_size: int | tuple[int, int],
        seed: int = 0,
        train: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        remainder: str | None = None,
        reshuffle: bool = True,
        multiple: int = 1,
        images_per_class: int = 1,
        keep: bool = True,
        augment: bool | None = None,
    ):
        order = (source, batch_size, seed, train, process_index, process_count)
        super().__init__(*order, remainder, reshuffle, multiple, images_per_class)
        self.preset, self.image_size = preset, image_size
        n = len(source)
        self._augment = train if augment is None else augment
        self._random = preset.random_on_host(self._augment)
        self._on_host = preset.on_host(source.image_shape, image_size) or self._random
        height, width, channels = source.image_shape
        if self._on_host:
            height, width = pair(image_size)
        self.image_shape = (height, width, channels)
        self._dtype = np.dtype(preset.host_dtype() if self._on_host else np.uint8)
        self._memory = self._labels = None
        keep = keep and not self._random
        if keep and n * math.prod(self.image_shape) * self._dtype.itemsize <= MEMORY:
            self._fill_memory()

    def _fill_memory(self):
        """Keep images decoded: at once if that also checks them, else as they are first read."""
        n = len(self.source)
        eager = not self._on_host
        if eager:
            self._memory = self.source.read_all(os.cpu_count() or 1)
        else:
            self._memory = np.empty((n, *self.image_shape), self._dtype)
        self._present = np.full(n, eager)
        self.source.check(self.source.num_classes)
        self._labels = self.source.labels().astype(np.int32)

    @property
    def kept(self) -> int | None:
        """Number of images that lie decoded in memory so far; None where none are kept."""
        return None if self._memory is None else int(self._present.sum())

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield this process's part of each batch, from step `start` on, before step `stop`.

        A batch is {"image": uint8 b H W C, "label": int32 (b,), "mask": bool (b,)}; labels are
        zeros and ones (b, C) where the source is multilabel, and images float32 where the preset
        must not round (legacy_bilinear on photos). In training the iterator never ends; in
        evaluation it ends after one pass, without another `stop`. Padding has mask False.

        Raises: UserError for an image that cannot be read, naming data set and example.
        """
        if stop is None:
            stop = start + FOREVER if self.train else self.steps_per_epoch
        steps = grain.MapDataset.range(start, max(stop, start)).map(self.batch)
        # Copying rows out of memory is too quick to share among threads.
        threads = 1 if self._memory is not None and self._present.all() else os.cpu_count() or 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)
        iterator = iter(steps.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    def batch(self, step: int) -> dict[str, Any]:
        """Return this process's part of the batch of one step; see `batches`."""
        indices = self.indices(step)[self._rows.start : self._rows.stop]
        real = indices >= 0
        b = len(indices)
        labels = np.zeros((b, *self.source.label_shape), np.int32)
        if real.all() and self._memory is not None and self._present[indices].all():
            return {"image": self._memory[indices], "label": self._labels[indices], "mask": real}
        images = np.zeros((b, *self.image_shape), self._dtype)
        rows = np.flatnonzero(real)
        for row, image, label in self._read(step, rows, indices[rows]):
            images[row], labels[row] = image, label
        return {"image": images, "label": labels, "mask": real}

    def _read(self, step, rows, indices):
        """Yield row, image and label of the given examples, from memory as far as kept."""
        if self._memory is not None:
            absent = ~self._present[indices]
            for row, index in zip(rows[~absent], indices[~absent], strict=True):
                yield row, self._memory[index], self._labels[index]
            rows, indices = rows[absent], indices[absent]
        rows, indices = rows.tolist(), indices.tolist()
        examples = self.source.__getitems__(indices)
        for row, index, example in zip(rows, indices, examples, strict=True):
            image, label = example["image"], example["label"]
            if not self.source.multilabel and not 0 <= label < self.source.num_classes:
                message = label_message(self.source.name, index, label, self.source.num_classes)
                raise UserError(message)
            if self._on_host:
                rng = self._crop_rng(step, row) if self._random else None
                image = self.preset.host(image, self.image_size, self._augment, rng)
            if self._memory is not None:
                self._memory[index] = image
                self._present[index] = True
            yield row, image, label

    def _crop_rng(self, step, row):
        # A generator of its own for each place in the run: threads and resuming change nothing.
        counter = [0, 0, self._rows.start + row, step]
        return np.random.Generator(np.random.Philox(key=[self.seed, 1], counter=counter))
