"""The training loop: from a configuration to a run directory. The same command continues an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from tcvit_jax import models, reducers, sharding
from tcvit_jax.config import Config, canonicalize
from tcvit_jax.errors import InputError
from tcvit_jax.evaluation import EvaluationResult, EvaluationStopped, evaluate, make_eval_step
from tcvit_jax.report.plots import draw_curves
from tcvit_jax.report.progress import Reporter
from tcvit_jax.report.rundir import RunDirectory
from tcvit_jax.training import runtime
from tcvit_jax.training.checkpoint import Checkpoints
from tcvit_jax.training.job import Job, build
from tcvit_jax.training.preemption import Preempted, PreemptionWatcher
from tcvit_jax.training.reduction_warmup import Stage, stage_at
from tcvit_jax.training.step import TrainState, TrainStep, make_init, make_train_step
from tcvit_jax.training.step_timer import StepTimer

# In a checkpoint's meta: its step is to be evaluated, and an interruption came first.
_EVALUATE = "evaluate"


def train(config: Config, enable_compilation_cache: bool = False) -> dict[str, Any]:
    """Train as `config` says, in its `workdir`, from its last checkpoint if there is one.

    Args:
        config: from `config.load`, or made of sections.
        enable_compilation_cache: keep compiled programs in the run's directory, for its next start; from here on all those of this
            process.

    Returns:
        What `summary.json` holds: `top1, top5, loss, examples` of the averaged parameters on the evaluation split,
        `gmacs, gmacs_dense, tokens, parameters` of the model, `images_per_second` of the evaluation,
        `train_images_per_second`, `step, seed, model, reducer`. What was not measured, such as a rate from a single
        batch, is NaN, and null in the file.

    Raises:
        InputError: a configuration that cannot be run, a disk that is full, or a loss that is not finite (with the step
            and the images).
        Preempted: the run was asked to end by `SIGTERM`, and is saved.
    """
    if not config.run.workdir:
        raise InputError("workdir='': must name the directory of the run")
    lead = jax.process_index() == 0  # pyright: ignore[reportUnknownMemberType]
    with PreemptionWatcher() as watcher:
        job = build(config)
        run = RunDirectory(
            config.run.workdir, config.to_mapping(), write=lead, free=config.RESUMABLE_KEYS, normalize=canonicalize
        )
        if enable_compilation_cache:
            runtime.enable_compilation_cache(run.path / ".jax_cache")
        with Checkpoints(run.path) as checkpoints:
            state, start, meta = _first_state(job, checkpoints)
            owed = meta.get(_EVALUATE, False)
            run.truncate_after(start, evaluation=owed)
            with Reporter(job.total_steps, start, show=lead) as reporter:
                for line in _banner(job, start):
                    reporter.line(line)
                loop = Loop(job, run, checkpoints, reporter, watcher)
                state, result = loop.advance(state, start, owed)
                # A finished run that is started again takes no step, and keeps the speed it was trained with.
                speed = (
                    loop.speed if start < job.total_steps else run.summary().get("train_images_per_second", math.nan)
                )
                result = result or loop.evaluate(state)
                summary = _summary(job, result, speed)
                run.write_summary(summary)
                if lead and not draw_curves(run.history(), run.path / "curves.png", str(run.path)):
                    reporter.line("curves.png needs matplotlib: pip install 'tcvit_jax[demo]'")
                reporter.line(f"{result}\nsaved in {run.path}")
    return summary


def _first_state(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, int, dict[str, Any]]:
    """The last checkpoint's state, or a fresh one; the steps it has taken; and what the checkpoint says of itself."""
    init = make_init(job.model, job.tx, job.config.run.seed)
    shapes: TrainState = jax.eval_shape(init)  # pyright: ignore[reportUnknownMemberType]
    table = job.model.PARAMETERS
    latest = checkpoints.latest()
    if latest is not None:
        return checkpoints.restore(latest, shapes, job.mesh, table), latest, checkpoints.meta(latest)
    start = jax.jit(init, out_shardings=sharding.shardings(shapes, job.mesh, table))  # pyright: ignore[reportUnknownMemberType]
    return cast("TrainState", start(job.variables)), 0, {}


def _banner(job: Job, start: int) -> Iterator[str]:
    model, config = job.model, job.config
    devices = cast("list[Any]", jax.devices())  # pyright: ignore[reportUnknownMemberType]
    yield (
        f"model   {model.variant}, reducer {config.reduction.name}, {models.count_parameters(model) / 1e6:.3g} M "
        f"parameters, {model.dtype}"
    )
    yield from job.ledger.summary().splitlines()
    source = job.train_data.source
    yield (
        f"data    {config.data.name}: {len(source)} training and {len(job.eval_data.source)} validation images, "
        f"{len(source.classes)} classes"
    )
    shared = f", parameters shared by {config.mesh.model}" if config.mesh.model > 1 else ""
    yield f"devices {len(devices)} x {devices[0].device_kind}, {config.run.batch_size} images a step{shared}"
    resumed = f", continued after step {start}" if start else ""
    yield f"run     {config.run.workdir}, {job.total_steps} steps, seed {config.run.seed}{resumed}"


class Loop:
    """The steps of one run and what happens between them: logs, checkpoints, evaluations, and a watcher to end."""

    def __init__(
        self, job: Job, run: RunDirectory, checkpoints: Checkpoints, reporter: Reporter, watcher: PreemptionWatcher
    ) -> None:
        """Compile nothing yet; the first step and the first evaluation do."""
        self._job, self._run, self._checkpoints, self._reporter, self._notice = job, run, checkpoints, reporter, watcher
        self._watch = StepTimer()
        self._eval_step = make_eval_step(job.model, job.preprocessing, job.mesh)
        self._train_steps: dict[Stage, TrainStep] = {}
        self._taught = sharding.place_replicated(job.teacher_variables, job.mesh)

    @property
    def speed(self) -> float:
        """Training images per second so far."""
        return self._watch.rate(self._job.config.run.batch_size)

    def evaluate(self, state: TrainState) -> EvaluationResult:
        """The averaged parameters on the whole evaluation split.

        Raises:
            Preempted: somebody asked the run to end meanwhile.
        """
        job = self._job
        variables = sharding.place_replicated(state.ema, job.mesh)
        try:
            return evaluate(self._eval_step, variables, job.eval_data.batches(), job.mesh, self._notice.reached)
        except EvaluationStopped:
            step = int(state.step)
            self._leave(step, state, evaluate=True)
            raise Preempted(step) from None

    def advance(self, state: TrainState, start: int, owed: bool) -> tuple[TrainState, EvaluationResult | None]:
        """Take the steps after `start`, to the last; its evaluation is returned with the state, if there was one.

        With `owed`, the evaluation after step `start` was interrupted, and is made up for.

        Raises:
            Preempted: somebody asked the run to end; it is saved.
        """
        job, config = self._job, self._job.config
        result = self._log_evaluation(start, state) if owed else None
        before: _Step | None = None
        for step, batch in zip(range(start + 1, job.total_steps + 1), job.train_data.batches(start), strict=False):
            indices = batch.pop("index")
            train_step, is_new = self._train_step(stage_at(job.stages, step - 1))
            state, metrics = train_step(state, self._taught, sharding.place(batch, job.mesh))
            now = _Step(step, metrics, indices)
            # Metrics are read a step late, while the device is busy with the next one.
            if before is not None:
                self._check_finite(before)
            before = now
            last = step == job.total_steps
            logs = step % config.run.log_every == 0
            evaluates = last or step % job.eval_steps == 0
            saves = last or step % config.run.checkpoint_every == 0
            leaves = self._notice.reached()
            if logs or evaluates or saves or leaves:
                # The step's own time counts as training, and nothing is kept or reported of a broken one.
                self._check_finite(now)
            self._watch.tick(counts=not is_new)
            with self._watch.pause():
                self._reporter.step(step)
                if logs:
                    self._log(step, metrics)
                if leaves:
                    self._leave(step, state, evaluate=evaluates)
                    raise Preempted(step)
                if evaluates:
                    result = self._log_evaluation(step, state)
                # Saved last: a run that is killed before repeats what was logged of this step, and loses nothing.
                if saves:
                    self._checkpoints.save(step, state, job.meta(step))
        return state, result

    def _train_step(self, stage: Stage) -> tuple[TrainStep, bool]:
        """The step of a stage, and whether it is used for the first time, which compiles it."""
        found = self._train_steps.get(stage)
        if found is not None:
            return found, False
        job, config = self._job, self._job.config
        objective = replace(job.objective, model=replace(job.model, removed=stage.removed))
        self._train_steps[stage] = make_train_step(
            objective, job.tx, job.mesh,
            seed=config.run.seed, ema_decay=config.optimizer.ema_decay, accumulate=config.run.accumulate,
        )  # fmt: skip
        return self._train_steps[stage], True

    def _leave(self, step: int, state: TrainState, evaluate: bool) -> None:
        """Save what the same command continues from, now; `evaluate` says that it begins with an evaluation."""
        self._checkpoints.save(step, state, {**self._job.meta(step), _EVALUATE: evaluate})
        self._checkpoints.wait()

    def _check_finite(self, step: _Step) -> None:
        """Raise unless a step's loss and gradient are finite; a gradient that is not spoils the parameters at once."""
        for key, name in (("loss", "loss"), ("grad_norm", "gradient's norm")):
            value = float(step.metrics[key])
            if not math.isfinite(value):
                rows = step.rows()
                file = self._run.write_broken_step({"step": step.number, **rows})
                raise InputError(
                    f"the {name} is {value} at step {step.number}, on training images {_first(rows)} (all of them and "
                    f"their losses: {file}): try a smaller --config.optimizer.lr"
                )

    def _log(self, step: int, metrics: Mapping[str, Array]) -> None:
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        rate = np.asarray(self._job.rate(step - 1)).item()
        self._run.log(step, {"loss": loss, "grad_norm": norm, "lr": rate, "images_per_second": self.speed})
        self._reporter.note(f"loss {loss:.4f}  {self.speed:,.0f} img/s")

    def _log_evaluation(self, step: int, state: TrainState) -> EvaluationResult:
        result = self.evaluate(state)
        self._run.log(step, {f"val_{key}": value for key, value in asdict(result).items()})
        self._reporter.line(f"step {step}/{self._job.total_steps}  {result}")
        return result


@dataclass(frozen=True)
class _Step:
    """A step that was taken, and the images of it that this process read."""

    number: int
    metrics: Mapping[str, Array]
    indices: np.ndarray

    def rows(self) -> dict[str, list[Any]]:
        """The index in the training split and the loss of every row, of all processes, which ask together."""
        losses = multihost_utils.process_allgather(self.metrics["row_loss"], tiled=True)
        # As two halves: JAX would cut 64 bits down to 32.
        halves = self.indices.astype(np.int64).view(np.int32)
        indices = np.asarray(multihost_utils.process_allgather(halves, tiled=True)).view(np.int64)
        return {"indices": indices.tolist(), "losses": np.asarray(losses).tolist()}


def _first(rows: Mapping[str, list[Any]]) -> str:
    """The indices of the rows whose loss is not finite, or of all rows, the first eight of them."""
    broken = [i for i, loss in zip(rows["indices"], rows["losses"], strict=True) if not math.isfinite(loss)]
    chosen = broken or rows["indices"]
    return ", ".join(map(str, chosen[:8])) + (", ..." if len(chosen) > 8 else "")


def _summary(job: Job, result: EvaluationResult, speed: float) -> dict[str, Any]:
    return {
        **asdict(result),
        "gmacs": job.ledger.gmacs,
        "gmacs_dense": job.ledger.gmacs_dense,
        "tokens": list(job.ledger.tokens),
        "parameters": models.count_parameters(job.model),
        "train_images_per_second": speed,
        "step": job.total_steps,
        "seed": job.config.run.seed,
        "model": job.model.variant,
        "reducer": reducers.to_config(job.model.reducer),
    }
