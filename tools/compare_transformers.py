"""Compare the features of a directory of transformers with those that transformers computes, and the speed of both.

python tools/compare_transformers.py dinov2_small --photos photos --count 50

Requires torch and transformers. The photos are resized to squares and normalized with the mean and standard deviation
of ImageNet. Both libraries run in turns, in float32, on as many cores as the process may use; images per second are
medians.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command, PathArgument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("directory", action=PathArgument, help="directory of transformers")
    parser.add_argument("--photos", required=True, action=PathArgument, help="directory of images")
    parser.add_argument("--count", type=int, default=50, help="number of photos, the first by name")
    parser.add_argument("--img-size", type=int, default=224, help="size in pixels")
    parser.add_argument("--batch", type=int, default=10, help="batch size")
    parser.add_argument("--rounds", type=int, default=5, help="number of timed rounds over all photos")
    parser.add_argument("--macs-fraction", type=float, default=0.6, help="multiply-adds of the reduced models")


def report(flags: argparse.Namespace) -> None:
    """Compare the features and print the difference and the images per second.

    Args:
        flags: The parsed command line.
    """
    import statistics
    import time
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    import jax
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    from PIL import Image

    import tcvit_jax as tc
    from tcvit_jax.data.workers import available_cores
    from tcvit_jax.models.zoo_entries import IMAGENET
    from tcvit_jax.ops.images import normalize

    torch.set_num_threads(available_cores())
    paths = sorted(path for path in Path(flags.photos).iterdir() if path.suffix in (".png", ".jpg"))[: flags.count]
    size = (flags.img_size, flags.img_size)
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize(size)) for path in paths])
    images = np.asarray(normalize(pixels, IMAGENET.mean, IMAGENET.std))
    batches = np.split(images, range(flags.batch, len(images), flags.batch))

    network = transformers.AutoModel.from_pretrained(flags.directory).eval()
    dense, variables, _ = tc.load(flags.directory, img_size=flags.img_size)
    budget = tc.schedule.budget(flags.macs_fraction * dense.cost().total / 1e9)
    apply = jax.jit(lambda model, images: model.apply(variables, images, method="features"), static_argnums=0)

    def run_torch() -> Any:
        with torch.inference_mode():
            tensors = [torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()) for batch in batches]
            return np.concatenate([network(tensor).last_hidden_state.numpy() for tensor in tensors])

    def run_jax(model: tc.ViT) -> Any:
        return np.concatenate([np.asarray(apply(model, batch)) for batch in batches])

    runs: dict[str, Callable[[], Any]] = {"transformers": run_torch, "tcvit_jax": lambda: run_jax(dense)}
    for name in ("gtp", "tome"):
        model = tc.condense(dense, tc.reducers.REDUCERS[name](), budget)
        runs[f"tcvit_jax, {name} at {model.cost().total / dense.cost().total:.0%} of the MACs"] = lambda model=model: (
            run_jax(model)
        )
    outputs = {name: run() for name, run in runs.items()}
    difference = np.abs(outputs["tcvit_jax"] - outputs["transformers"]).max()
    scale = np.abs(outputs["transformers"]).max()
    print(f"largest difference of features {difference:.1e}, features up to {scale:.1f}, {len(images)} photos")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(flags.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name:40} {len(images) / statistics.median(times):6.1f} images/s")


main = Command(__doc__, add_arguments, report)

if __name__ == "__main__":
    sys.exit(main())
