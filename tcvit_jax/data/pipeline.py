"""Batches in a fixed order: what step k trains on is a function of the seed and of k, and of nothing else.

Grain does the work, with threads or worker processes. Its worker processes are spawned, so they import this
module again: nothing here may do work, or import JAX, when imported.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tcvit_jax.data.rows import Augment, TokenLabeling, reader
from tcvit_jax.data.sources.base import ImageLike, Source
from tcvit_jax.errors import InputError

Batch = dict[str, np.ndarray]
"""`image` uint8 [B, H, W, C] and `label` int32 [B].

In training also `index` int64 [B], where in the source each row comes from; in evaluation also `mask` float32 [B], 0 in
padding rows.

In training with label maps of h x w cells, for a grid of gh x gw patches, also `map_scores` float32 [B, 5, h, w] and
`map_classes` int32 [B, 5, h, w], and, all float32, `map_rows` [B, gh, h], `map_columns` [B, gw, w], `map_image_rows`
[B, h] and `map_image_columns` [B, w]: what the labels of a row's patches are made of, as `label_maps` says.
"""

# Two keep ahead of the training step. More only contend for the interpreter where images are small, as with
# the digits; where they are large, `workers` is what scales.
DEFAULT_THREADS = 2
_MAX_SEED = 2**32 - 1


def train_batches(
    source: Source,
    transform: Augment,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    repeats: int = 1,
    labeling: TokenLabeling | None = None,
    workers: int = 0,
    threads: int = DEFAULT_THREADS,
) -> Iterator[Batch]:
    """Endless batches for training, reshuffled in every epoch; a batch may span two epochs.

    The global batch of step k, augmentation included, depends on `seed`, `batch_size`, `repeats` and k only: not on
    `start_step`, `process_count`, `workers` or `threads`; label maps only add to it. Process p of n holds the p-th of
    its n contiguous parts. So a run that resumes at step k continues as if it had not stopped, on as many processes as
    there are by then.

    With `repeats` above 1 (repeated augmentation, Hoffer et al., https://arxiv.org/abs/1901.09335) every image fills
    that many rows, each with an augmentation of its own. Steps show as many rows as ever, and so fewer images. Copies
    of an image share a batch, a `repeats`-th of it apart and so never in neighboring rows; if the batch ends between
    them, the next one has the rest.

    Args:
        source: the examples.
        transform: maps an image, a `ImageLike`, and a generator to uint8 [H, W, C]. Picklable if `workers`.
        batch_size: rows of the global batch; each process gets `batch_size // process_count` of them.
        seed: of the shuffling and of the augmentation, 0 to 2**32 - 1.
        start_step: the step whose batch comes first.
        process_index: which process this is.
        process_count: how many processes share the global batch.
        repeats: how many rows each image of the shuffled order fills.
        labeling: label maps, for an image folder and a `TrainTransform` of mode `"crop"`.
        workers: worker processes; 0 uses threads of this process alone.
        threads: threads per process, each of which makes whole batches; 0 makes them when they are asked for.

    Returns:
        An iterator; closing or dropping it stops its threads and processes.

    Raises:
        InputError: a number is out of range, the source is empty, the batch is too small for its `repeats`, or
            `labeling` does not go with the source or the transform.
    """
    _check_batching(source, batch_size, process_index, process_count, workers, threads)
    _require("start_step", start_step, 0)
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed {seed} must be in 0..{_MAX_SEED}")
    _require("repeats", repeats, 1)
    _check_repeats(repeats, batch_size, process_count)
    row = reader(source, transform, labeling)
    import grain

    indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    if repeats > 1:
        indices = grain.MapDataset.source(_Repeated(indices, repeats, batch_size)).seed(seed)
    # Augmented before the rows are dealt to processes: each generator is then that of the global row, so
    # that neither do two processes share one, nor does the batch depend on how many processes there are.
    rows = indices.random_map(row)
    parts = rows.batch(batch_size // process_count, drop_remainder=True)
    return _iterate(parts[process_index::process_count][start_step:], workers, threads)


def eval_batches(
    source: Source,
    transform: Callable[[ImageLike], np.ndarray],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = DEFAULT_THREADS,
) -> Iterator[Batch]:
    """Every example exactly once, in order, in `ceil(len(source) / batch_size)` batches of one shape.

    Global batch b holds the examples from `b * batch_size` on, and process p the p-th contiguous part of it.
    Rows past the end are zeros with a `mask` of 0; all processes yield the same number of batches.

    Args:
        source: the examples.
        transform: maps an image, a `ImageLike`, to uint8 [H, W, C]. Picklable if `workers`.
        batch_size: rows of the global batch; each process gets `batch_size // process_count` of them.
        process_index: which process this is.
        process_count: how many processes share the global batch.
        workers: worker processes; 0 uses threads of this process alone.
        threads: threads per process, each of which makes whole batches; 0 makes them when they are asked for.

    Returns:
        An iterator; closing or dropping it stops its threads and processes.

    Raises:
        InputError: a number is out of range, or the source is empty or its first image cannot be read.
    """
    _check_batching(source, batch_size, process_index, process_count, workers, threads)
    import grain

    # A part that is all padding holds no image to take the shape from, hence the look at the first one.
    shape = transform(source[0]["image"]).shape
    part = _EvalPart(source, transform, shape, batch_size, process_index, process_count)
    steps = -(-len(source) // batch_size)
    return _iterate(grain.MapDataset.range(steps).map(part), workers, threads)


@dataclass(frozen=True)
class _Repeated:
    """Picklable: the rows of an endless stream of indices, each of which fills several rows of the same batch."""

    indices: Any
    repeats: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> int:
        step, place = divmod(index, self.batch_size)
        return self.indices[(step * self.batch_size + self._order[place]) // self.repeats]

    @cached_property
    def _order(self) -> list[int]:
        return _spread(self.repeats, self.batch_size)


def _spread(repeats: int, batch_size: int) -> list[int]:
    """An order of the rows of a batch: each `repeats`-th from the first, then from the second, and so on."""
    return [row for first in range(repeats) for row in range(first, batch_size, repeats)]


@dataclass(frozen=True)
class _EvalPart:
    """Picklable: one process's part of the evaluation batch of a step."""

    source: Source
    transform: Callable[[ImageLike], np.ndarray]
    shape: tuple[int, ...]
    batch_size: int
    process_index: int
    process_count: int

    def __call__(self, step: int) -> Batch:
        rows = self.batch_size // self.process_count
        batch = {
            "image": np.zeros((rows, *self.shape), np.uint8),
            "label": np.zeros(rows, np.int32),
            "mask": np.zeros(rows, np.float32),
        }
        first = step * self.batch_size + self.process_index * rows
        for row, index in enumerate(range(first, min(first + rows, len(self.source)))):
            example = self.source[index]
            batch["image"][row] = self.transform(example["image"])
            batch["label"][row] = example["label"]
            batch["mask"][row] = 1
        return batch


def _iterate(batches: Any, workers: int, threads: int) -> Iterator[Batch]:
    """Runs a Grain `MapDataset` of batches; what it started ends with the generator, however that ends."""
    import grain

    # Grain counts its buffer in elements, here whole batches: its default of 500 would fill the memory.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = batches.to_iter_dataset(options)
    if workers:
        _mark_flags_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_outlast)
    with closing(iter(dataset)) as iterator:
        for batch in iterator:
            yield _own_memory(batch) if workers else batch


def _outlast(worker: int, workers: int) -> None:
    """Lets a worker process work on when all processes of a job are asked to end: the one it works for saves first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _own_memory(batch: Batch) -> Batch:
    """Copies a batch out of shared memory, whose destructor fails when the interpreter exits."""
    return {name: np.array(values, subok=False) for name, values in batch.items()}


def _mark_flags_parsed() -> None:
    """Lets Grain start workers in a program that never parsed absl's flags, such as a notebook."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _check_batching(
    source: Source, batch_size: int, process_index: int, process_count: int, workers: int, threads: int
) -> None:
    _require("batch_size", batch_size, 1)
    _require("process_count", process_count, 1)
    _require("workers", workers, 0)
    _require("threads", threads, 0)
    if not 0 <= process_index < process_count:
        raise InputError(f"process_index {process_index} must be in 0..{process_count - 1}")
    if batch_size % process_count:
        nearest = max(1, round(batch_size / process_count)) * process_count
        raise InputError(
            f"batch_size {batch_size} cannot be shared by {process_count} processes: the nearest that can is {nearest}"
        )
    if len(source) == 0:
        raise InputError("the data source is empty: it needs at least one example")


def _check_repeats(repeats: int, batch_size: int, process_count: int) -> None:
    """Raises an `InputError` if the batch is so small that copies of an image would be neighbors."""
    if not _copies_meet(repeats, batch_size):
        return
    larger = batch_size + process_count
    while _copies_meet(repeats, larger):
        larger += process_count
    raise InputError(
        f"batch_size {batch_size} is too small for repeats {repeats}, copies of an image would be neighbors: "
        f"the next that is not is {larger}"
    )


def _copies_meet(repeats: int, batch_size: int) -> bool:
    """Whether any batch has two copies of an image in neighboring rows."""
    if repeats == 1 or batch_size >= 3 * repeats:
        return False
    # Batches differ by how many copies of their first image the batch before has had: all there can be.
    images = (np.arange(repeats)[:, None] * batch_size + _spread(repeats, batch_size)) // repeats
    return bool((images[:, 1:] == images[:, :-1]).any())


def _require(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} {value} must be {least} or more")
