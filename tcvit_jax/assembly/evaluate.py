"""Evaluation of a pretrained model, with a report."""

from __future__ import annotations

from tcvit_jax import sharding
from tcvit_jax.assembly.datasets import describe_reading
from tcvit_jax.assembly.pretrained import Pretrained
from tcvit_jax.evaluation import EvaluationResult, make_eval_step
from tcvit_jax.evaluation import evaluate as evaluate_batches
from tcvit_jax.measure import describe
from tcvit_jax.report.progress import ImageProgress, announce_first_call


def evaluate(pretrained: Pretrained) -> EvaluationResult:
    """Evaluate a model on every image of its evaluation split, and print its cost and its results.

    Args:
        pretrained: The model, its weights and its configuration.

    Returns:
        The result.

    Raises:
        InputError: The data are not found or differ from the recorded ones, or the batch size is not a multiple of the
            number of devices.
    """
    mesh = sharding.data_mesh()
    data, ledger = pretrained.eval_data(), describe(pretrained.model)
    print(f"model   {ledger.name}\n{ledger.summary()}", flush=True)
    for line in describe_reading(pretrained.config.data, data):
        print(line, flush=True)
    step = announce_first_call(
        make_eval_step(pretrained.model, pretrained.preprocessing, mesh),
        f"compiling the evaluation of {pretrained.model.variant}",
    )
    variables = sharding.place_replicated(pretrained.variables, mesh)
    with ImageProgress("evaluation", len(data.source)) as progress:
        result = evaluate_batches(step, variables, data.batches(), mesh, progress=progress.update)
    print(f"{result}\n{result.images_per_second:,.0f} images/s", flush=True)
    return result
