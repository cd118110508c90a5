"""What the input pipeline adds to the work of Pillow: images a second of both, on one core, and of worker processes.

python tools/input_rate.py --rounds 15 --workers 5

Pillow reads the JPEGs of a folder, crops, resizes, flips and applies the operations that were drawn before: a loop of
its calls and nothing else. The pipeline is `train_batches` over the same folder, in the same thread. Both are pinned to
one core and take turns. Their seconds are those that the processor spent on them, so that other programs disturb
little, and the ratio is that of neighboring turns. Pictures are noise with the spectrum of photographs.

Then one worker process and two take turns on two cores, by the clock: only a machine that does nothing else tells what
the second is worth. Its bound is what the processor spends on a busy machine as well: with w in a worker and m in the
process that receives, two cores give at most 2 w / (w + m) times the images of one worker. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tcvit_jax.data import Source, TrainTransform, open_source, operations, train_batches

SIZE = (375, 500)
NAMES = 50
TRANSFORMS = {
    "crop and flip": TrainTransform((224, 224)),
    "crop, flip and RandAugment": TrainTransform((224, 224), auto_augment="rand-m9-mstd0.5-inc1"),
}


def picture(seed: int) -> np.ndarray:
    """uint8 [375, 500, 3]: each frequency as strong as in photographs, on average, and colors that go together."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.fftfreq(SIZE[1]))
    waves = np.fft.fft2(rng.standard_normal((3, *SIZE))) / (0.004 + frequency) ** 1.35
    plain = np.real(np.fft.ifft2(waves))
    plain /= plain.std(axis=(1, 2), keepdims=True)
    slope = np.linspace(-1, 1, SIZE[1]) * rng.normal() + np.linspace(-1, 1, SIZE[0])[:, None] * rng.normal()
    mixed = plain[:1] + 0.25 * plain + 0.5 * slope
    return np.clip(120 + 45 * mixed, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def make_folder(directory: str, count: int) -> tuple[list[str], float]:
    """Writes pictures, each under so many names that shuffling costs what it does in large data; paths and mean kB."""
    folder = Path(directory) / "train" / "any"
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.jpg" for number in range(NAMES * count)]
    for number, path in enumerate(paths):
        if number < count:
            Image.fromarray(picture(number)).save(path, quality=87)
        else:
            os.link(paths[number % count], path)
    return [str(path) for path in paths], float(np.mean([path.stat().st_size for path in paths])) / 1000


def of_pillow(paths: list[str], transform: TrainTransform, count: int) -> Callable[[], float]:
    """A turn of Pillow: seconds for `count` images."""
    rng, height, width = np.random.default_rng(0), *transform.size
    drawn = [(paths[rng.integers(len(paths))], transform.draw(SIZE, rng)) for _ in range(20 * count)]
    turns = iter(range(10**9))
    fill = operations.fill_color(transform.mean, 3)

    def turn() -> float:
        first = next(turns) * count
        start = time.process_time()
        for number in range(first, first + count):
            path, augmentation = drawn[number % len(drawn)]
            with Image.open(path) as file:
                image = file.crop(augmentation.box).resize((width, height), Image.Resampling.BICUBIC)
            if augmentation.flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            operations.apply(image, augmentation.operations, fill)
        return time.process_time() - start

    return turn


def of_pipeline(source: Source, transform: TrainTransform, count: int, batch_size: int) -> Callable[[], float]:
    """A turn of the pipeline in the caller's thread: seconds for `count` images."""
    batches = train_batches(source, transform, batch_size=batch_size, seed=0, threads=0)
    next(batches)

    def turn() -> float:
        start = time.process_time()
        for _ in range(count // batch_size):
            next(batches)
        return time.process_time() - start

    return turn


def of_workers(source: Source, transform: TrainTransform, batch_size: int, workers: int, batches: int) -> np.ndarray:
    """Seconds per batch by the clock, in the worker processes, and in this one, once all buffers are used up."""
    stream = train_batches(source, transform, batch_size=batch_size, seed=0, workers=workers, threads=1)
    for _ in range(6 * workers):
        next(stream)
    children = [child.pid for child in multiprocessing.active_children()]

    def now() -> np.ndarray:
        return np.array([time.perf_counter(), sum(spent(child) for child in children), time.process_time()])

    start = now()
    for _ in range(batches):
        next(stream)
    seconds = (now() - start) / batches
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    return seconds


def spent(process: int | None) -> float:
    """Seconds that the processor has spent on another process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(name: str, rates: np.ndarray, ratios: np.ndarray) -> str:
    """A line of the table: images a second, and the ratio's median and quartiles."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"| {name} | {', '.join(f'{rate:.0f}' for rate in rates)} | {middle:.3f} | {low:.3f} to {high:.3f} |"


def compare_workers(source: Source, name: str, transform: TrainTransform, batch_size: int, rounds: int) -> None:
    """Print the rows of one worker and of two."""
    turns = [[of_workers(source, transform, batch_size, n, 8 * n) for n in (1, 2)] for _ in range(rounds)]
    clock, workers, receiver = np.array(turns).transpose(2, 0, 1)
    rates = batch_size / np.median(clock, axis=0)
    print(row(f"{name}: one worker, two, by the clock", rates, clock[:, 0] / clock[:, 1]))
    alone, shared = workers[:, 0], (workers[:, 0] + receiver[:, 0]) / 2
    rates = batch_size / np.median([alone, shared], axis=1)
    print(row(f"{name}: one worker, two, bound", rates, alone / shared), flush=True)


def main() -> None:
    """Print a row for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="pictures in the folder, each under 50 names")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="turns of Pillow and of the pipeline")
    parser.add_argument("--workers", type=int, default=5, help="turns of one worker process and of two; 0 for none")
    flags = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[-2:]
    with tempfile.TemporaryDirectory() as directory:
        paths, kilobytes = make_folder(directory, flags.images)
        source = open_source("folder", "train", directory)
        print(
            f"{SIZE[1]}x{SIZE[0]} JPEGs of {kilobytes:.0f} kB, batches of {flags.batch}, load {os.getloadavg()[0]:.1f}"
        )
        print("| work | images a second | ratio | quartiles |\n|---|---|---|---|")
        for name, transform in TRANSFORMS.items():
            os.sched_setaffinity(0, cores[-1:])
            turns = [of_pillow(paths, transform, flags.batch), of_pipeline(source, transform, flags.batch, flags.batch)]
            seconds = np.array([[turn() for turn in turns] for _ in range(flags.rounds + 1)])[1:]
            rates = flags.batch / np.median(seconds, axis=0)
            print(row(f"{name}: Pillow, pipeline", rates, seconds[:, 0] / seconds[:, 1]), flush=True)
            os.sched_setaffinity(0, cores)
            if flags.workers and len(cores) == 2:
                compare_workers(source, name, transform, flags.batch, flags.workers)


if __name__ == "__main__":
    main()
