"""Evaluation of a pretrained model on a task, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from tcvit_jax import models, sharding
from tcvit_jax.assembly import EvalData, Pretrained, describe_reading
from tcvit_jax.errors import invalid
from tcvit_jax.evaluation import describe_nonfinite
from tcvit_jax.measure import describe
from tcvit_jax.tasks.base import Subject, Task
from tcvit_jax.tasks.knn import Knn
from tcvit_jax.tasks.scores import Scores


def evaluate(pretrained: Pretrained, task: Task[Any]) -> Scores:
    """Measure a model on a task, and print its cost and its scores.

    Args:
        pretrained: The model, its weights and its configuration.
        task: The task.

    Returns:
        The scores.

    Raises:
        InputError: The data are not found or differ from the recorded ones, or do not fit the task.
    """
    task = resolve(task, pretrained)
    task.check(pretrained.model)
    data, train_data = open_data([pretrained], task)
    mesh, model = sharding.data_mesh(), pretrained.model
    ledger = describe(model)
    print(f"model   {ledger.name}\n{ledger.summary()}\ntask    {task}", flush=True)
    for line in describe_reading(pretrained.config.data, data):
        print(line, flush=True)
    subject = Subject(model, [pretrained.variables], pretrained.preprocessing, data, train_data, model.grid)
    dense = models.condense(model)
    reference = task.reference(replace(subject, model=dense), mesh)
    is_same = task.compares_with_dense and model.active_reducer is None
    scores = task.scores(reference if is_same else task.outputs(subject, mesh), reference)
    warning = describe_nonfinite(scores.nonfinite, scores.examples, "outputs") if scores.nonfinite else ""
    print(f"{scores}  {warning}".rstrip())
    return scores


def resolve(task: Task[Any], pretrained: Pretrained) -> Task[Any]:
    """Return the task for the data of a model: neighbors leave one out where training and evaluation are one split."""
    data = pretrained.config.data
    is_one_split = data.train_split == data.eval_split
    return replace(task, leave_one_out=True) if isinstance(task, Knn) and is_one_split else task


def check_single_process(command: str) -> None:
    """Check that there is one process.

    Raises:
        InputError: There are several.
    """
    if jax.process_count() > 1:
        raise invalid(command, f"expected one process, got {jax.process_count()}", "run it in a single process")


def open_data(pretrained: Sequence[Pretrained], task: Task[Any]) -> tuple[EvalData, EvalData | None]:
    """Return the evaluation images of a task and, if it reads them, the training images.

    Args:
        pretrained: Models that share the data of the first one.
        task: The task.

    Raises:
        InputError: The data are not found, differ from those that a model records, or do not fit the task; or there are
            several processes.
    """
    check_single_process("--task")
    config = pretrained[0].config
    splits = [config.data.eval_split, *([config.data.train_split] if task.uses_train_data else [])]
    if len(set(splits)) < len(splits):
        problem = f"must be different from data.eval_split={splits[0]!r}, because the probe is trained on it"
        raise invalid(f"data.train_split={splits[1]!r}", problem)
    split_data: list[EvalData] = []
    for split in splits:
        # Each model compares the images with its own record.
        data, *_ = [
            replace(each, config=config).eval_data(split=split, needs_classifier=task.NEEDS_CLASSIFIER)
            for each in pretrained
        ]
        split_data.append(replace(data, source=task.select(data.source)))
    return split_data[0], split_data[1] if task.uses_train_data else None
