"""Flags that choose a task, for `eval.py`, the benchmark and the search, and flags of their weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tcvit_jax.command import PathArgument

if TYPE_CHECKING:
    from tcvit_jax.tasks.base import Task

TASKS = ("classify", "knn", "linear", "retrieval", "dense")
# The fields of tasks that are flags.
_FIELDS = (
    "feature", "k", "temperature", "leave_one_out", "probe", "max_pairs", "decoder", "decoder_weights", "label_maps",
)  # fmt: skip


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--task`, the flags of all tasks, and `--img-size`. A flag that is not set is None."""
    parser.add_argument("--task", default="classify", help=f"what is measured: {', '.join(TASKS)}")
    parser.add_argument(
        "--img-size", metavar="N|HxW", help="with --checkpoint: size of the images, by default that of the source"
    )
    parser.add_argument(
        "--feature",
        help="knn, linear, retrieval: pooled (what the head pools), token (class token) or avg (mean of the patch "
        "tokens), by default pooled",
    )
    parser.add_argument("--k", type=int, help="knn: number of neighbors, by default 20")
    parser.add_argument("--temperature", type=float, help="knn: temperature of the votes, by default 0.07")
    parser.add_argument(
        "--leave-one-out",
        action="store_const",
        const=True,
        help="knn: neighbors are the other evaluation images, not training images",
    )
    parser.add_argument("--probe", help="linear: ridge or logistic, by default ridge")
    parser.add_argument("--max-pairs", type=int, help="retrieval, dense: read only the first pairs, by default all")
    parser.add_argument(
        "--decoder",
        metavar="MODULE:NAME",
        help="required by dense: a Flax module from patch features [B, h, w, D] to a map",
    )
    parser.add_argument(
        "--decoder-weights",
        action=PathArgument,
        help="required by dense: weight file or Orbax checkpoint of the decoder",
    )
    parser.add_argument(
        "--label-maps",
        action=PathArgument,
        help="dense: directory of PNG label maps, by default the maps of the dense model",
    )


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `assembly.from_flags` besides `--checkpoint`, which names one source or several."""
    parser.add_argument(
        "--config",
        action=PathArgument,
        help="alternative to --checkpoint: a configuration with the model and data, FILE.py or FILE.py:RECIPE",
    )
    parser.add_argument(
        "--weights",
        default="",
        action=PathArgument,
        help="weights for --config: a weight file, directory, hf-hub:ORG/NAME or checkpoint",
    )
    parser.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="continue even if the classes or images differ from those that a checkpoint records",
    )


def parse_task(flags: argparse.Namespace) -> Task[Any]:
    """Return the task that flags choose.

    Args:
        flags: The flags of `add_task_arguments`.

    Raises:
        InputError: The task is unknown, does not read a flag that is set, or a value is out of range.
    """
    from dataclasses import fields

    from tcvit_jax.errors import conflicts, unknown
    from tcvit_jax.tasks.classify import Classify
    from tcvit_jax.tasks.dense import Dense
    from tcvit_jax.tasks.knn import Knn
    from tcvit_jax.tasks.linear import Linear
    from tcvit_jax.tasks.retrieval import Retrieval

    kinds = {kind.NAME: kind for kind in (Classify, Knn, Linear, Retrieval, Dense)}
    if flags.task not in kinds:
        raise unknown("task", flags.task, kinds)
    kind = kinds[flags.task]
    values = {name: getattr(flags, name) for name in _FIELDS if getattr(flags, name) is not None}
    readers = {name: [each for each in kinds if name in {f.name for f in fields(kinds[each])}] for name in values}
    for name, tasks in readers.items():
        if flags.task not in tasks:
            flag = f"--{name.replace('_', '-')}"
            raise conflicts(flag, f"--task {flags.task}", f"it is a flag of --task {' or '.join(tasks)}")
    return kind(**values)


def parse_img_size(flags: argparse.Namespace) -> tuple[int, int] | None:
    """Return the value of `--img-size` as (height, width), or None if it is not set.

    Raises:
        InputError: The value is not a size, or the model is not that of `--checkpoint`.
    """
    from tcvit_jax.convert.files import parse_size
    from tcvit_jax.errors import conflicts, out_of_range

    if flags.img_size is None:
        return None
    if flags.config:
        raise conflicts("--img-size", "--config", "set --config.model.img_size=N")
    size = parse_size(flags.img_size)
    if size is None or min(size) < 1:
        raise out_of_range("--img-size", flags.img_size, "N or HEIGHTxWIDTH, such as 224 or 224x160")
    return size
