"""The training loop: from a configuration to a run directory. Rerunning the same command resumes a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from tcvit_jax import lock, models, reducers, sharding
from tcvit_jax.assembly import DataRecord
from tcvit_jax.config import Config, canonicalize
from tcvit_jax.data import describe_skipped, describe_workers
from tcvit_jax.errors import invalid, out_of_range
from tcvit_jax.evaluation import EvaluationResult, EvaluationStopped, evaluate, make_eval_step
from tcvit_jax.report.plots import draw_curves
from tcvit_jax.report.progress import Reporter, announce_first_call
from tcvit_jax.report.rundir import RunDirectory
from tcvit_jax.training import runtime
from tcvit_jax.training.checkpoint import Checkpoints
from tcvit_jax.training.job import Job, build
from tcvit_jax.training.preemption import PreemptionWatcher
from tcvit_jax.training.reduction_warmup import Stage, stage_at
from tcvit_jax.training.step import TrainState, TrainStep, make_init, make_train_step
from tcvit_jax.training.step_timer import StepTimer

# The key of a checkpoint's metadata that says whether its step still has to be evaluated after a preemption.
_NEEDS_EVALUATION = "evaluate"


def train(config: Config, enable_compilation_cache: bool = False, accept_data_changes: bool = False) -> dict[str, Any]:
    """Train a model in the `workdir` of a configuration, from its latest checkpoint if there is one.

    Args:
        config: The configuration.
        enable_compilation_cache: Whether to cache compiled programs in the run directory, for the next start. This
            affects all later compilations of the process.
        accept_data_changes: Whether to train even if the classes or the images differ from those that the latest
            checkpoint, the initial weights or the teacher record.

    Returns:
        The content of `summary.json`: `top1`, `top5`, `loss`, `examples` and `nonfinite` of the averaged parameters on
        the evaluation split, as in `EvaluationResult`; `gmacs`, `gmacs_dense`, `tokens` and `parameters` of the model;
        `images_per_second` of the evaluation; `train_images_per_second`, `step`, `seed`, `model` and `reducer`. A value
        that was not measured, such as the throughput of a single batch, is NaN, and null in the file.

    Raises:
        InputError: The configuration is invalid, another process trains in `workdir`, the data have changed, the disk
            is full, or the loss is not finite (the message names the step and the images).
        Preempted: The run received `SIGTERM`, `SIGINT` or `SIGHUP` and is saved.
        KeyboardInterrupt: The run received `SIGINT` before its first step, or twice.
    """
    if not config.run.workdir:
        raise out_of_range("workdir", config.run.workdir, "the path of a run directory", "set --config.workdir=PATH")
    is_first_process = jax.process_index() == 0  # pyright: ignore[reportUnknownMemberType]
    with PreemptionWatcher() as watcher, ExitStack() as stack:
        job = build(config, accept_data_changes)
        notice = stack.enter_context(_lock(config.run.workdir)) if is_first_process else ""
        run = RunDirectory(
            config.run.workdir, config.to_mapping(), is_writer=is_first_process, resumable_keys=config.RESUMABLE_KEYS,
            normalize=canonicalize,
        )  # fmt: skip
        if enable_compilation_cache:
            runtime.enable_compilation_cache(run.path / ".jax_cache")
        with Checkpoints(run.path) as checkpoints:
            # Now, because an error may follow.
            for line in (*filter(None, (notice,)), *checkpoints.notices):
                print(line, flush=True)
            latest = checkpoints.latest_step()
            meta = {} if latest is None else checkpoints.meta(latest)
            if meta and not accept_data_changes:
                job.check_data(DataRecord.from_meta(f"{run.path} step {latest}", meta))
            run.write_config()
            state, start = _initial_state(job, checkpoints, latest)
            needs_evaluation = meta.get(_NEEDS_EVALUATION, False)
            run.truncate_after(start, evaluation=needs_evaluation)
            with Reporter(job.total_steps, start, is_enabled=is_first_process) as reporter:
                for line in _banner(job, start):
                    reporter.print_line(line)
                loop = Loop(job, run, checkpoints, reporter, watcher)
                state, result = loop.advance(state, start, needs_evaluation)
                # A finished run that is started again takes no step, so keep its measured throughput.
                images_per_second = (
                    loop.images_per_second
                    if start < job.total_steps
                    else run.summary().get("train_images_per_second", math.nan)
                )
                result = result or loop.evaluate(state)
                summary = _summary(job, result, images_per_second)
                run.write_summary(summary)
                if is_first_process and not draw_curves(run.history(), run.path / "curves.png", str(run.path)):
                    reporter.print_line("curves.png requires matplotlib: pip install 'tcvit_jax[demo]'")
                reporter.print_line(f"{result}\nsaved in {run.path}")
    return summary


def _lock(workdir: str) -> AbstractContextManager[str]:
    """Return the lock of a run directory, as `lock.hold`."""
    return lock.hold(lock.in_directory(workdir), workdir, "set --config.workdir=PATH to another directory")


def _initial_state(job: Job, checkpoints: Checkpoints, latest: int | None) -> tuple[TrainState, int]:
    """Return the state of the latest checkpoint or a new one, and the number of steps taken."""
    init = make_init(job.model, job.tx, job.config.run.seed)
    shapes: TrainState = jax.eval_shape(init)  # pyright: ignore[reportUnknownMemberType]
    table = job.model.PARAMETERS
    if latest is not None:
        return checkpoints.restore(latest, shapes, job.mesh, table), latest
    start = jax.jit(init, out_shardings=sharding.shardings(shapes, job.mesh, table))  # pyright: ignore[reportUnknownMemberType]
    return cast("TrainState", start(job.variables)), 0


def _banner(job: Job, start: int) -> Iterator[str]:
    """Yield the lines that describe a run at its start."""
    model, config = job.model, job.config
    devices = cast("list[Any]", jax.devices())  # pyright: ignore[reportUnknownMemberType]
    yield (
        f"model   {model.variant}, reducer {config.reduction.name}, {models.count_parameters(model) / 1e6:.3g} M "
        f"parameters, {model.dtype}"
    )
    yield from job.ledger.summary().splitlines()
    source = job.train_data.source
    workers = f", {describe_workers(config.data.workers, job.train_data.workers)}" if job.train_data.workers else ""
    yield (
        f"data    {config.data.name}: {len(source):,} training images, {len(job.eval_data.source):,} validation "
        f"images, {len(source.classes):,} classes{workers}"
    )
    for split, each in (("training", source), ("validation", job.eval_data.source)):
        if line := describe_skipped(each.skipped):
            yield f"data    {split}: {line}"
    shards = f", parameters sharded over {config.mesh.model}" if config.mesh.model > 1 else ""
    yield f"devices {len(devices)} x {devices[0].device_kind}, batch size {config.run.batch_size:,}{shards}"
    resumed = f", resumed after step {start}" if start else ""
    yield f"run     {config.run.workdir}, {job.total_steps} steps, seed {config.run.seed}{resumed}"


class Loop:
    """The steps of a run, with logging, checkpointing, evaluation and preemption. Nothing is compiled at construction.

    Args:
        job: The parts of the run.
        run: The run directory.
        checkpoints: The checkpoints of the run.
        reporter: The progress output.
        watcher: The preemption watcher.
    """

    def __init__(
        self, job: Job, run: RunDirectory, checkpoints: Checkpoints, reporter: Reporter, watcher: PreemptionWatcher
    ) -> None:
        self._job, self._run, self._checkpoints, self._reporter = job, run, checkpoints, reporter
        self._watcher, self._timer = watcher, StepTimer()
        self._eval_step = announce_first_call(
            make_eval_step(job.model, job.preprocessing, job.mesh), f"compiling the evaluation of {job.model.variant}",
            reporter.print_line,
        )  # fmt: skip
        self._train_steps: dict[Stage, TrainStep] = {}
        self._teacher_variables = sharding.place_replicated(job.teacher_variables, job.mesh)

    @property
    def images_per_second(self) -> float:
        """The training throughput so far."""
        return self._timer.images_per_second(self._job.config.run.batch_size)

    def evaluate(self, state: TrainState) -> EvaluationResult:
        """Evaluate the averaged parameters on the full evaluation split.

        Args:
            state: The training state.

        Raises:
            Preempted: The run was preempted during the evaluation and is saved.
        """
        job = self._job
        variables = sharding.place_replicated(state.ema, job.mesh)
        try:
            with self._reporter.image_progress("evaluation", len(job.eval_data.source)) as progress:
                return evaluate(
                    self._eval_step, variables, job.eval_data.batches(), job.mesh, self._watcher.is_preempted,
                    progress.update,
                )  # fmt: skip
        except EvaluationStopped:
            step = int(state.step)
            self._save_preempted(step, state, needs_evaluation=True)
            raise self._watcher.preemption(step) from None

    def advance(
        self, state: TrainState, start: int, needs_evaluation: bool
    ) -> tuple[TrainState, EvaluationResult | None]:
        """Take all steps after `start`.

        Args:
            state: The state after `start` steps.
            start: The number of steps taken.
            needs_evaluation: Whether the evaluation after step `start` was interrupted and has to be repeated.

        Returns:
            The last state and, if there was an evaluation, the last result.

        Raises:
            Preempted: The run was preempted and is saved.
        """
        job, config = self._job, self._job.config
        result = self._evaluate_and_log(start, state) if needs_evaluation else None
        previous: _StepRecord | None = None
        for step, batch in zip(range(start + 1, job.total_steps + 1), job.train_data.batches(start), strict=False):
            indices = batch.pop("index")
            train_step, is_new = self._train_step(stage_at(job.stages, step - 1))
            state, metrics = train_step(state, self._teacher_variables, sharding.place(batch, job.mesh))
            current = _StepRecord(step, metrics, indices)
            # Read the metrics one step late, while the device computes the next step.
            if previous is not None:
                self._check_finite(previous)
            previous = current
            is_last = step == job.total_steps
            is_log_step = step % config.run.log_every == 0
            is_evaluation_step = is_last or step % job.eval_steps == 0
            is_checkpoint_step = is_last or step % config.run.checkpoint_every == 0
            is_preempted = self._watcher.is_preempted()
            if is_log_step or is_evaluation_step or is_checkpoint_step or is_preempted:
                # This waits for the step, whose time counts as training; a step that is not finite is never saved.
                self._check_finite(current)
            self._timer.tick(is_timed=not is_new)
            with self._timer.pause():
                self._reporter.set_step(step)
                if is_log_step:
                    self._log(step, metrics)
                if is_preempted:
                    self._save_preempted(step, state, is_evaluation_step)
                    raise self._watcher.preemption(step)
                if is_evaluation_step:
                    result = self._evaluate_and_log(step, state)
                # Save last: a run that is killed before the save repeats this step and its logs.
                if is_checkpoint_step:
                    self._checkpoints.save(step, state, job.meta(step))
        return state, result

    def _train_step(self, stage: Stage) -> tuple[TrainStep, bool]:
        """Return the training step of a stage, and whether it is new and compiles at its first call."""
        train_step = self._train_steps.get(stage)
        if train_step is not None:
            return train_step, False
        job, config = self._job, self._job.config
        objective = replace(job.objective, model=replace(job.model, removed=stage.removed))
        step = make_train_step(
            objective, job.tx, job.mesh,
            seed=config.run.seed, ema_decay=config.optimizer.ema_decay, accumulate=config.run.accumulate,
        )  # fmt: skip
        text = f"compiling the training step of {job.model.variant}"
        if len(job.stages) > 1:
            text += f", stage {job.stages.index(stage) + 1} of {len(job.stages)}"
        self._train_steps[stage] = announce_first_call(step, text, self._reporter.print_line)
        return self._train_steps[stage], True

    def _save_preempted(self, step: int, state: TrainState, needs_evaluation: bool) -> None:
        """Save a checkpoint and wait for it. `needs_evaluation` makes the resumed run start with an evaluation."""
        self._checkpoints.save(step, state, {**self._job.meta(step), _NEEDS_EVALUATION: needs_evaluation})
        self._checkpoints.wait()

    def _check_finite(self, step: _StepRecord) -> None:
        """Raise unless the loss and the gradient of a step are finite; the parameters are invalid otherwise."""
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            value = float(step.metrics[key])
            if not math.isfinite(value):
                rows = step.rows()
                file = self._run.write_nonfinite_step({"step": step.number, **rows})
                raise invalid(
                    f"step {step.number}", f"the {name} is {value} on training images {_format_indices(rows)}",
                    f"lower --config.optimizer.lr (indices and losses of the batch: {file})",
                )  # fmt: skip

    def _log(self, step: int, metrics: Mapping[str, Array]) -> None:
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        lr = np.asarray(self._job.lr_schedule(step - 1)).item()
        self._run.log(step, {"loss": loss, "grad_norm": norm, "lr": lr, "images_per_second": self.images_per_second})
        self._reporter.show_status(f"loss {loss:.4f}  {self.images_per_second:,.0f} images/s")

    def _evaluate_and_log(self, step: int, state: TrainState) -> EvaluationResult:
        result = self.evaluate(state)
        self._run.log(step, {f"val_{key}": value for key, value in asdict(result).items()})
        self._reporter.print_line(f"step {step}/{self._job.total_steps}  {result}")
        return result


@dataclass(frozen=True)
class _StepRecord:
    """A completed step.

    Attributes:
        number: The number of the step, counted from 1.
        metrics: The metrics of the step.
        indices: The indices, in the training split, of the images that this process read.
    """

    number: int
    metrics: Mapping[str, Array]
    indices: np.ndarray

    def rows(self) -> dict[str, list[Any]]:
        """Return the index and the loss of every row of the global batch. All processes must call this together."""
        losses = multihost_utils.process_allgather(self.metrics["row_loss"], tiled=True)
        # Gather the indices as pairs of 32 bits: JAX would truncate 64 bits to 32.
        halves = self.indices.astype(np.int64).view(np.int32)
        indices = np.asarray(multihost_utils.process_allgather(halves, tiled=True)).view(np.int64)
        return {"indices": indices.tolist(), "losses": np.asarray(losses).tolist()}


def _format_indices(rows: Mapping[str, list[Any]]) -> str:
    """Return the first eight indices of the rows whose loss is not finite, or of all rows if all losses are finite."""
    nonfinite = [i for i, loss in zip(rows["indices"], rows["losses"], strict=True) if not math.isfinite(loss)]
    indices = nonfinite or rows["indices"]
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")


def _summary(job: Job, result: EvaluationResult, images_per_second: float) -> dict[str, Any]:
    return {
        **asdict(result),
        "gmacs": job.ledger.gmacs,
        "gmacs_dense": job.ledger.gmacs_dense,
        "tokens": list(job.ledger.tokens),
        "parameters": models.count_parameters(job.model),
        "train_images_per_second": images_per_second,
        "step": job.total_steps,
        "seed": job.config.run.seed,
        "model": job.model.variant,
        "reducer": reducers.to_config(job.model.reducer),
    }
