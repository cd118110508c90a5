"""Batches. A training batch is a function of (seed, step) alone; an evaluation counts every example once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tcvit_jax.data.sources import Example, Source
from tcvit_jax.data.transforms import EvalTransform, TrainTransform
from tcvit_jax.errors import InputError

Batch = dict[str, np.ndarray]


def local_size(batch_size: int, process_count: int) -> int:
    """Rows of a global batch that each process holds.

    Raises:
        InputError: the processes cannot share the batch evenly.
    """
    if batch_size < 1 or batch_size % process_count:
        nearest = max(1, round(batch_size / process_count)) * process_count
        raise InputError(f"batch_size={batch_size} cannot be shared by {process_count} processes: use {nearest}")
    return batch_size // process_count


@dataclass(frozen=True)
class _Augment:
    """The random map of the pipeline; a class because workers receive it pickled."""

    transform: TrainTransform

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"image": self.transform(example["image"], rng), "label": np.int32(example["label"])}


def train_batches(
    source: Source,
    transform: TrainTransform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Endless training batches, reshuffled every epoch.

    The set of examples in global batch `k`, and every random choice made for them, depend on `seed` and `k` alone:
    not on where the run started, on the number of workers, nor on the number of processes.

    Args:
        source: of examples.
        transform: their augmentation.
        batch_size: rows of the global batch.
        seed: of the order and of the augmentation.
        start_step: the first batch that is wanted.
        process_index, process_count: which part of every global batch is this process's.
        workers: decoding processes; 0 decodes in a thread of this one.

    Yields:
        `image` uint8 `[b, H, W, C]` and `label` int32 `[b]`, `b` this process's share of the batch.
    """
    import grain

    if not len(source):
        raise InputError("the training split holds no example")
    rows = local_size(batch_size, process_count)
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(_Augment(transform))
    batches = examples[process_index::process_count].batch(rows, drop_remainder=True)[start_step:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    dataset = batches.to_iter_dataset(options)
    if workers:
        _parse_absl_flags()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    yield from dataset


def _parse_absl_flags() -> None:
    """Grain's workers read absl flags, which nobody has parsed in a notebook or a test (google/grain#1355)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def eval_batches(
    source: Source,
    transform: EvalTransform,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Every example once, in order, in `ceil(len / batch_size)` batches of one shape.

    Global batch `b` holds examples `[b * batch_size, (b + 1) * batch_size)`, each process its contiguous part. Rows
    beyond the last example are black and masked out.

    Yields:
        `image` uint8 `[b, H, W, C]`, `label` int32 `[b]`, and `mask` float32 `[b]`, 1 for an example and 0 for padding.
    """
    from concurrent.futures import ThreadPoolExecutor

    rows = local_size(batch_size, process_count)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(process_index * rows, _round_up(len(source), batch_size), batch_size):
            indices = range(start, min(start + rows, len(source)))
            yield _padded(list(pool.map(_reader(source, transform), indices)), rows, transform)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _reader(source: Source, transform: EvalTransform) -> Callable[[int], tuple[np.ndarray, int]]:
    def read(index: int) -> tuple[np.ndarray, int]:
        example = source[index]
        return transform(example["image"]), example["label"]

    return read


def _padded(examples: list[tuple[np.ndarray, int]], rows: int, transform: EvalTransform) -> Batch:
    image = np.zeros((rows, *transform.size, transform.channels), np.uint8)
    label = np.zeros(rows, np.int32)
    mask = np.zeros(rows, np.float32)
    for row, (picture, value) in enumerate(examples):
        image[row], label[row], mask[row] = picture, value, 1
    return {"image": image, "label": label, "mask": mask}
