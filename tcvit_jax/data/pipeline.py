"""Deterministic batches: the training batch of step k is a function of the seed and k only.

Grain loads the data, with threads or worker processes. Its worker processes are spawned and import this module again,
so importing it must neither do work nor import JAX.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tcvit_jax.data.rows import Augment, TokenLabeling, create_reader
from tcvit_jax.data.sources.base import ImageLike, Source
from tcvit_jax.data.workers import (
    MAX_WORKERS_PER_CORE,
    available_cores,
    clear_frames,
    close_at_exit,
    remove_shared_memory,
    start_worker,
    start_workers,
    worker_error,
)
from tcvit_jax.errors import invalid, out_of_range

Batch = dict[str, np.ndarray]
"""`image` uint8 [B, H, W, C] and `label` int32 [B].

Training batches also have `index` int64 [B], the index of each row in the source; evaluation batches also have `mask`
float32 [B], 0 for padding rows.

With label maps of h x w cells and a grid of gh x gw patches, training batches also have `map_scores` float32
[B, 5, h, w], `map_classes` int32 [B, 5, h, w], and in float32 `map_rows` [B, gh, h], `map_columns` [B, gw, w],
`map_image_rows` [B, h] and `map_image_columns` [B, w]: the factors of the token labels, which
`tcvit_jax.data.label_maps` describes.
"""

# Two threads keep ahead of the training step. For small images such as the digits, more threads only contend for the
# interpreter lock; for large images, use `workers`.
DEFAULT_THREADS = 2


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
    """Return an infinite iterator of training batches, reshuffled every epoch.

    A batch may span two epochs. The global batch of step k, including augmentation, depends only on `seed`,
    `batch_size`, `repeats` and k, not on `start_step`, `process_count`, `workers` or `threads`; `labeling` adds arrays
    and changes no others. The global batch is divided into `process_count` contiguous shards, one per process. A run
    that resumes at step k therefore continues identically, on any number of processes.

    With `repeats` above 1 (repeated augmentation, Hoffer et al., https://arxiv.org/abs/1901.09335) every image fills
    `repeats` rows, each augmented independently; the batch size stays the same, so a step sees fewer images. The
    copies of an image are spread over one batch at intervals of about `batch_size / repeats` rows and are never
    adjacent; where a batch ends between them, the next batch has the remaining copies.

    Args:
        source: The examples.
        transform: Maps an image (`ImageLike`) and a generator to uint8 [H, W, C]. Must be picklable if `workers` > 0.
        batch_size: Rows of the global batch; each process gets `batch_size // process_count` of them.
        seed: Seed of shuffling and augmentation, in [0, 2**32).
        start_step: Step of the first batch.
        process_index: Index of this process.
        process_count: Number of processes that share the global batch.
        repeats: Number of rows per image.
        labeling: Label maps, or None. Requires an image folder and a `TrainTransform` with mode `"crop"`.
        workers: Number of worker processes, at most 4 per core; 0 uses only threads of this process.
        threads: Threads per process, each of which prepares full batches; 0 prepares each batch on request.

    Returns:
        An iterator. Closing or deleting it stops its threads and processes.

    Raises:
        InputError: An argument is out of range, the source is empty, the batch is too small for `repeats`, or
            `labeling` does not support the source or the transform.
    """
    _check_batching(source, batch_size, process_index, process_count, workers, threads)
    _check_minimum("start_step", start_step, 0)
    if not 0 <= seed < 2**32:
        raise out_of_range("seed", seed, "in [0, 2**32)")
    _check_minimum("repeats", repeats, 1)
    _check_repeats(repeats, batch_size, process_count)
    read_row = create_reader(source, transform, labeling)
    import grain

    indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    if repeats > 1:
        indices = grain.MapDataset.source(_RepeatedIndices(indices, repeats, batch_size)).seed(seed)
    # Augment before sharding: Grain derives each generator from the global row, so that no two processes share one
    # and the batch does not depend on the number of processes.
    rows = indices.random_map(read_row)
    shards = rows.batch(batch_size // process_count, drop_remainder=True)
    return _iterate(shards[process_index::process_count][start_step:], workers, threads)


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
    """Return an iterator of evaluation batches with every example exactly once, in order.

    There are `ceil(len(source) / batch_size)` batches of the same shape. Global batch b starts at example
    `b * batch_size` and is divided into `process_count` contiguous shards, one per process. Padding rows of the last
    batch are zero and have a `mask` of 0; all processes yield the same number of batches.

    Args:
        source: The examples.
        transform: Maps an image (`ImageLike`) to uint8 [H, W, C]. Must be picklable if `workers` > 0.
        batch_size: Rows of the global batch; each process gets `batch_size // process_count` of them.
        process_index: Index of this process.
        process_count: Number of processes that share the global batch.
        workers: Number of worker processes, at most 4 per core; 0 uses only threads of this process.
        threads: Threads per process, each of which prepares full batches; 0 prepares each batch on request.

    Returns:
        An iterator. Closing or deleting it stops its threads and processes.

    Raises:
        InputError: An argument is out of range, the source is empty, or its first image cannot be read.
    """
    _check_batching(source, batch_size, process_index, process_count, workers, threads)
    import grain

    # A shard of padding only has no image to take the shape from, so read the first image.
    shape = transform(source[0]["image"]).shape
    shard = _EvalShard(source, transform, shape, batch_size, process_index, process_count)
    steps = -(-len(source) // batch_size)
    return _iterate(grain.MapDataset.range(steps).map(shard), workers, threads)


@dataclass(frozen=True)
class _RepeatedIndices:
    """Picklable sequence that repeats each index of an infinite stream in several rows of a batch."""

    indices: Any
    repeats: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> int:
        step, row = divmod(index, self.batch_size)
        return self.indices[(step * self.batch_size + self._order[row]) // self.repeats]

    @cached_property
    def _order(self) -> list[int]:
        return _interleaved_order(self.repeats, self.batch_size)


def _interleaved_order(repeats: int, batch_size: int) -> list[int]:
    """Return the rows of a batch with stride `repeats`: all from offset 0, then all from offset 1, and so on."""
    return [row for first in range(repeats) for row in range(first, batch_size, repeats)]


@dataclass(frozen=True)
class _EvalShard:
    """Picklable map from a step to the shard of one process of its evaluation batch."""

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
    """Iterate over a Grain `MapDataset` of batches; the threads and processes stop when the generator closes."""
    import grain

    # The buffer is counted in elements, here full batches: Grain's default of 500 would fill the memory.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = batches.to_iter_dataset(options)
    if not workers:
        return _yield_batches(dataset)
    _mark_flags_parsed()
    processes = grain.MultiprocessingOptions(num_workers=workers)
    iterator = _receive_batches(dataset.mp_prefetch(processes, worker_init_fn=start_worker))
    close_at_exit(iterator)
    return iterator


def _yield_batches(dataset: Any) -> Generator[Batch, None, None]:
    with closing(iter(dataset)) as iterator:
        yield from iterator


def _receive_batches(dataset: Any) -> Generator[Batch, None, None]:
    """Yield the batches of worker processes, and remove all of their shared memory at the end.

    No variable may refer to a batch in shared memory, or it could not be removed.
    """
    try:
        with closing(iter(dataset)) as iterator:
            yield _copy_batch(start_workers(iterator))
            yield from map(_copy_batch, iterator)
    except Exception as error:
        clear_frames(error)
        if isinstance(error, RuntimeError) and (input_error := worker_error(error)):
            raise input_error from error
        raise
    finally:
        remove_shared_memory()


def _copy_batch(batch: Batch) -> Batch:
    """Copy a batch out of shared memory, whose destructor fails when the interpreter exits."""
    return {name: np.array(values, subok=False) for name, values in batch.items()}


def _mark_flags_parsed() -> None:
    """Mark absl flags as parsed, so that Grain can start workers in programs without absl, such as a notebook."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _check_batching(
    source: Source, batch_size: int, process_index: int, process_count: int, workers: int, threads: int
) -> None:
    _check_minimum("batch_size", batch_size, 1)
    _check_minimum("process_count", process_count, 1)
    _check_minimum("workers", workers, 0)
    if workers > (limit := MAX_WORKERS_PER_CORE * available_cores()):
        raise out_of_range("workers", workers, f"<= {limit}, {MAX_WORKERS_PER_CORE} per core")
    _check_minimum("threads", threads, 0)
    if not 0 <= process_index < process_count:
        raise out_of_range("process_index", process_index, f"in [0, {process_count})")
    if batch_size % process_count:
        nearest = max(1, round(batch_size / process_count)) * process_count
        raise out_of_range("batch_size", batch_size, f"divisible by process_count={process_count}", f"use {nearest}")
    if len(source) == 0:
        raise invalid("data source", "expected at least one example, got 0")


def _check_repeats(repeats: int, batch_size: int, process_count: int) -> None:
    """Raise an `InputError` if the batch is so small that copies of an image would be adjacent."""
    if not _has_adjacent_copies(repeats, batch_size):
        return
    larger = batch_size + process_count
    while _has_adjacent_copies(repeats, larger):
        larger += process_count
    condition = f"large enough that copies of an image are not adjacent with repeats={repeats}"
    raise out_of_range("batch_size", batch_size, condition, f"use {larger}")


def _has_adjacent_copies(repeats: int, batch_size: int) -> bool:
    """Return whether any batch has two copies of an image in adjacent rows."""
    if repeats == 1 or batch_size >= 3 * repeats:
        return False
    # A batch is determined by how many copies of its first image are in the previous batch; try every number.
    images = (np.arange(repeats)[:, None] * batch_size + _interleaved_order(repeats, batch_size)) // repeats
    return bool((images[:, 1:] == images[:, :-1]).any())


def _check_minimum(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise out_of_range(name, value, f">= {minimum}")
