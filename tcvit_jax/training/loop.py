"""The training loop: from a configuration to a run directory. The same command continues an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from jax import Array

from tcvit_jax import models, sharding
from tcvit_jax.config import Config
from tcvit_jax.errors import InputError
from tcvit_jax.evaluation import Result, evaluate, make_eval_step
from tcvit_jax.report.plots import draw_curves
from tcvit_jax.report.progress import Reporter
from tcvit_jax.report.rundir import RunDirectory
from tcvit_jax.training.checkpoint import Checkpoints
from tcvit_jax.training.job import Job, build
from tcvit_jax.training.step import TrainState, make_init, make_train_step
from tcvit_jax.training.stopwatch import Stopwatch


def train(config: Config) -> dict[str, Any]:
    """Train as `config` says, in its `workdir`, from its last checkpoint if there is one.

    Returns:
        What `summary.json` holds: `top1, top5, loss, examples` of the averaged parameters on the evaluation split,
        `gmacs, gmacs_dense, tokens, parameters` of the model, `images_per_second` of the evaluation,
        `train_images_per_second`, `step, seed, model, reducer`. What was not measured, such as a rate from a single
        batch, is NaN, and null in the file.

    Raises:
        InputError: a configuration that cannot be run, or a loss that is not finite (with the step).
    """
    job = build(config)
    lead = jax.process_index() == 0
    run = RunDirectory(config.workdir, config.to_dict(), write=lead)
    with Checkpoints(run.path) as checkpoints:
        state, start = _first_state(job, checkpoints)
        run.forget_after(start)
        with Reporter(job.total_steps, start, show=lead) as reporter:
            for line in _banner(job, start):
                reporter.line(line)
            loop = Loop(job, run, checkpoints, reporter)
            state, result = loop.advance(state, start)
            # A finished run that is started again takes no step, and keeps the speed it was trained with.
            speed = loop.speed if start < job.total_steps else run.summary().get("train_images_per_second")
            result = result or loop.evaluate(state)
            summary = _summary(job, result, speed)
            run.write_summary(summary)
            if lead and not draw_curves(run.history(), run.path / "curves.png", str(run.path)):
                reporter.line("curves.png needs matplotlib: pip install 'tcvit_jax[demo]'")
            reporter.line(f"{result}\nsaved in {run.path}")
    return summary


def _first_state(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The last checkpoint's state, or a fresh one, and the steps it has taken."""
    init = make_init(job.model, job.tx, job.config.seed)
    latest = checkpoints.latest()
    if latest is not None:
        return checkpoints.restore(latest, jax.eval_shape(init), job.mesh), latest
    return jax.jit(init, out_shardings=sharding.replicated(job.mesh))(job.variables), 0


def _banner(job: Job, start: int) -> Iterator[str]:
    model, config, device = job.model, job.config, jax.devices()[0]
    yield (
        f"model   {model.variant}, reducer {config.reducer.name}, {models.count_parameters(model) / 1e6:.3g} M "
        f"parameters, {model.dtype}"
    )
    yield from job.ledger.summary().splitlines()
    source = job.train_data.source
    yield (
        f"data    {config.data.name}: {len(source)} training and {len(job.eval_data.source)} validation images, "
        f"{len(source.classes)} classes"
    )
    yield f"devices {jax.device_count()} x {device.device_kind}, {config.batch_size} images a step"
    resumed = f", continued after step {start}" if start else ""
    yield f"run     {config.workdir}, {job.total_steps} steps, seed {config.seed}{resumed}"


class Loop:
    """The steps of one run and what happens between them: logs, checkpoints, evaluations."""

    def __init__(self, job: Job, run: RunDirectory, checkpoints: Checkpoints, reporter: Reporter) -> None:
        """Compile nothing yet; the first step and the first evaluation do."""
        config = job.config
        self._job, self._run, self._checkpoints, self._reporter = job, run, checkpoints, reporter
        self._watch = Stopwatch()
        self._eval_step = make_eval_step(job.model, job.preprocessing, job.mesh)
        self._train_step = make_train_step(
            job.model, job.tx, job.preprocessing, job.mesh,
            seed=config.seed, label_smoothing=config.label_smoothing, ema_decay=config.optimizer.ema_decay,
        )  # fmt: skip

    @property
    def speed(self) -> float:
        """Training images per second so far."""
        return self._watch.rate(self._job.config.batch_size)

    def evaluate(self, state: TrainState) -> Result:
        """The averaged parameters on the whole evaluation split."""
        return evaluate(self._eval_step, state.ema, self._job.eval_data.batches(), self._job.mesh)

    def advance(self, state: TrainState, start: int) -> tuple[TrainState, Result | None]:
        """Take the steps after `start`, to the last; its evaluation is returned with the state, if there was one."""
        job, config = self._job, self._job.config
        batches = job.train_data.batches(start)
        before: Mapping[str, Array] | None = None
        result = None
        for step in range(start + 1, job.total_steps + 1):
            state, metrics = self._train_step(state, sharding.place(next(batches), job.mesh))
            # Metrics are read a step late, while the device is busy with the next one.
            if before is not None:
                _check_finite(before, step - 1)
            before = metrics
            last = step == job.total_steps
            logs = step % config.log_every == 0
            evaluates = last or step % job.eval_steps == 0
            saves = last or step % config.checkpoint_every == 0
            if logs or evaluates or saves:
                # The step's own time counts as training, and nothing is kept or reported of a broken one.
                _check_finite(metrics, step)
            self._watch.tick()
            with self._watch.pause():
                self._reporter.step(step)
                if logs:
                    self._log(step, metrics)
                if evaluates:
                    result = self._log_evaluation(step, state)
                # Saved last: a run that is killed before repeats what was logged of this step, and loses nothing.
                if saves:
                    self._checkpoints.save(step, state, job.meta(step))
        return state, result

    def _log(self, step: int, metrics: Mapping[str, Array]) -> None:
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        rate = np.asarray(self._job.rate(step - 1)).item()
        self._run.log(step, {"loss": loss, "grad_norm": norm, "lr": rate, "images_per_second": self.speed})
        self._reporter.note(f"loss {loss:.4f}  {self.speed:,.0f} img/s")

    def _log_evaluation(self, step: int, state: TrainState) -> Result:
        result = self.evaluate(state)
        self._run.log(step, {f"val_{key}": value for key, value in asdict(result).items()})
        self._reporter.line(f"step {step}/{self._job.total_steps}  {result}")
        return result


def _check_finite(metrics: Mapping[str, Array], step: int) -> None:
    """Raise unless the step's loss and gradient are finite; a gradient that is not spoils the parameters at once."""
    for key, name in (("loss", "loss"), ("grad_norm", "gradient's norm")):
        value = float(metrics[key])
        if not math.isfinite(value):
            raise InputError(f"the {name} is {value} at step {step}: try a smaller --config.optimizer.lr")


def _summary(job: Job, result: Result, speed: float | None) -> dict[str, Any]:
    return {
        **asdict(result),
        "gmacs": job.ledger.gmacs,
        "gmacs_dense": job.ledger.gmacs_dense,
        "tokens": list(job.ledger.tokens),
        "parameters": models.count_parameters(job.model),
        "train_images_per_second": speed,
        "step": job.total_steps,
        "seed": job.config.seed,
        "model": job.model.variant,
        "reducer": job.config.reducer.to_dict(),
    }
