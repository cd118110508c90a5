"""Times of compiled programs: on the device, warm, in turns, each call waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.stages import Compiled

from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Plan, Tokens

WARM_UP = 3


@dataclass(frozen=True)
class Program:
    """A compiled function with its arguments on the device.

    Attributes:
        run: computes, and waits for the result.
        compile_seconds: tracing, lowering and compiling.
        memory: bytes of arguments, results and temporaries together.
    """

    run: Callable[[], Any]
    compile_seconds: float
    memory: int


def compile_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """`function` compiled for `arguments`, which are brought to the device."""
    placed = jax.device_put(arguments)
    start = time.perf_counter()
    compiled: Compiled = jax.jit(function).lower(*placed).compile()
    seconds = time.perf_counter() - start
    used = compiled.memory_analysis()
    if used is None:
        raise InputError(f"the compiler of {jax.default_backend()!r} does not tell how much memory a program takes")
    memory = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return Program(lambda: jax.block_until_ready(compiled(*placed)), seconds, memory - used.alias_size_in_bytes)


def time_interleaved(programs: Sequence[Program], rounds: int) -> np.ndarray:
    """Seconds of every program, `[rounds, programs]`: A B C A B C, so that a drift of the clock meets all alike."""
    for _ in range(WARM_UP):
        for program in programs:
            program.run()
    seconds = np.empty((rounds, len(programs)))
    for row in seconds:
        for index, program in enumerate(programs):
            start = time.perf_counter()
            program.run()
            row[index] = time.perf_counter() - start
    return seconds


STAGES = ("embedding", "attention", "plan", "apply", "mlp", "head")


@dataclass(frozen=True)
class _Pass:
    """What enters the stages of every block, from one forward pass: for the reducing blocks alone from `attended` on.

    `entering`, `reduced` and `last` are tokens.
    """

    entering: list[Tokens]
    attended: list[tuple[Tokens, Signals]]
    plans: list[tuple[Plan, Tokens]]
    reduced: list[Tokens]
    last: Tokens


jax.tree_util.register_dataclass(_Pass)


def stage_programs(model: ViT, variables: Mapping[str, Any], images: Array) -> dict[str, Program]:
    """One program for each stage of a model, which computes it in all blocks, each from what enters it there.

    `embedding` is with what the reducer prepares, `attention` with the signals that it reads. A dense model has no
    `plan` and no `apply`. What enters is captured in one pass over `images`, and starts on the device: the stages
    together are about the whole, without what the compiler wins across them.
    """
    steps, reducer = model.block_specs(model.reads_prefix_only), model.reducer
    reducing = [step for step in steps if step.has_plan]

    def blocks(variables: Any) -> Any:
        return model.bind(variables).blocks

    def capture(variables: Any, images: Array) -> _Pass:
        tokens = model.bind(variables).start(images)
        found = _Pass([], [], [], [], tokens)
        for block, step in zip(blocks(variables), steps, strict=True):
            found.entering.append(tokens)
            tokens, signals = block.attend(tokens, step, False)
            if reducer and step.has_plan:
                found.attended.append((tokens, signals))
                before = tokens
                tokens, plan = reducer.reduce(tokens, signals, tokens.origin.shape[1] - step.num_removed)
                found.plans.append((plan, before))
            found.reduced.append(tokens)
            tokens = block.feed_forward(tokens, False)
        return replace(found, last=tokens)

    def attention(variables: Any, entering: list[Tokens]) -> list[Any]:
        every = zip(blocks(variables), entering, steps, strict=True)
        return [block.attend(tokens, step, False) for block, tokens, step in every]

    def plan(attended: list[tuple[Tokens, Signals]]) -> list[Plan]:
        assert reducer is not None
        every = zip(attended, reducing, strict=True)
        return [reducer.plan(t, signals, t.origin.shape[1] - step.num_removed) for (t, signals), step in every]

    def mlp(variables: Any, reduced: list[Tokens]) -> list[Tokens]:
        return [block.feed_forward(tokens, False) for block, tokens in zip(blocks(variables), reduced, strict=True)]

    found = jax.jit(capture)(variables, images)
    stages: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "embedding": (lambda variables, images: model.bind(variables).start(images), (variables, images)),
        "attention": (attention, (variables, found.entering)),
        "plan": (plan, (found.attended,)),
        "apply": (lambda every: [plans.apply(*each) for each in every], (found.plans,)),
        "mlp": (mlp, (variables, found.reduced)),
        "head": (lambda variables, last: model.bind(variables).logits(last, False), (variables, found.last)),
    }
    return {
        stage: compile_program(function, *arguments)
        for stage, (function, arguments) in stages.items()
        if reducing or stage not in ("plan", "apply")
    }
