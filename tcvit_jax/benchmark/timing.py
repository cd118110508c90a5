"""Timing of compiled programs. Programs run in turns after a warm-up, and each call waits for its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.stages import Compiled

from tcvit_jax.errors import invalid
from tcvit_jax.models import ViT
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Plan, Tokens

WARM_UP = 3


@dataclass(frozen=True)
class Program:
    """A compiled function with its arguments on the device.

    Attributes:
        run: A function that runs the program and waits for the result.
        compile_seconds: The time of tracing, lowering and compiling.
        memory: Bytes of arguments, results and temporaries.
    """

    run: Callable[[], Any]
    compile_seconds: float
    memory: int


def compile_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """Compile a function for arguments, which are transferred to the device.

    Args:
        function: The function.
        *arguments: Pytrees of arrays.

    Raises:
        InputError: The compiler provides no memory analysis.
    """
    device_arguments = jax.device_put(arguments)
    start = time.perf_counter()
    compiled: Compiled = jax.jit(function).lower(*device_arguments).compile()
    seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise invalid(f"backend {jax.default_backend()!r}", "the compiler provides no memory analysis")
    size = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    memory = size - analysis.alias_size_in_bytes
    return Program(lambda: jax.block_until_ready(compiled(*device_arguments)), seconds, memory)


def time_interleaved(programs: Sequence[Program], rounds: int) -> np.ndarray:
    """Time programs in turns (A B C A B C), so that drifts of the clock frequency affect all programs equally.

    Args:
        programs: The programs.
        rounds: The number of timed runs of each program.

    Returns:
        `[rounds, programs]`, seconds.
    """
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
class _StageInputs:
    """The inputs of all stages in one forward pass.

    Attributes:
        attention_inputs: The tokens before each block.
        plan_inputs: The tokens and signals after attention, of the blocks that plan.
        apply_inputs: The plan and the tokens it is applied to, of the blocks that plan.
        mlp_inputs: The tokens before the MLP of each block.
        head_input: The tokens after the last block.
    """

    attention_inputs: list[Tokens]
    plan_inputs: list[tuple[Tokens, Signals]]
    apply_inputs: list[tuple[Plan, Tokens]]
    mlp_inputs: list[Tokens]
    head_input: Tokens


jax.tree_util.register_dataclass(_StageInputs)


def stage_programs(model: ViT, variables: Mapping[str, Any], images: Array) -> dict[str, Program]:
    """Compile one program per stage of a model, which computes the stage in all blocks.

    The stage `embedding` includes the preparation of the reducer, and `attention` includes the signals. A dense model
    has no stages `plan` and `apply`. The inputs of the stages are captured in one forward pass and stay on the device.
    The times of the stages sum to approximately the time of the model, without the gains of fusion across stages. For a
    reducer that reads the output of the MLP, `attention` computes it for all tokens, and `mlp` again for the kept ones.

    Args:
        model: The model.
        variables: The variables of the model.
        images: `[B, H, W, C]` float, normalized.

    Returns:
        The programs by stage, with names from `STAGES`.
    """
    specs, reducer = model.block_specs(model.reads_prefix_only), model.reducer
    plan_specs = [spec for spec in specs if spec.has_plan]

    def blocks(variables: Any) -> Any:
        return model.bind(variables).blocks

    def capture(variables: Any, images: Array) -> _StageInputs:
        tokens = model.bind(variables).start(images)
        inputs = _StageInputs([], [], [], [], tokens)
        for block, spec in zip(blocks(variables), specs, strict=True):
            inputs.attention_inputs.append(tokens)
            tokens, signals = block.attend(tokens, spec, False)
            if reducer and spec.has_plan:
                inputs.plan_inputs.append((tokens, signals))
                before = tokens
                tokens, plan = reducer.reduce(tokens, signals, tokens.origin.shape[1] - spec.num_removed)
                inputs.apply_inputs.append((plan, before))
            inputs.mlp_inputs.append(tokens)
            tokens = block.feed_forward(tokens, False)
        return replace(inputs, head_input=tokens)

    def attention(variables: Any, inputs: list[Tokens]) -> list[Any]:
        calls = zip(blocks(variables), inputs, specs, strict=True)
        return [block.attend(tokens, spec, False) for block, tokens, spec in calls]

    def plan(inputs: list[tuple[Tokens, Signals]]) -> list[Plan]:
        assert reducer is not None
        calls = zip(inputs, plan_specs, strict=True)
        return [reducer.plan(t, signals, t.origin.shape[1] - spec.num_removed) for (t, signals), spec in calls]

    def mlp(variables: Any, inputs: list[Tokens]) -> list[Tokens]:
        return [block.feed_forward(tokens, False) for block, tokens in zip(blocks(variables), inputs, strict=True)]

    inputs = jax.jit(capture)(variables, images)
    stages: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "embedding": (lambda variables, images: model.bind(variables).start(images), (variables, images)),
        "attention": (attention, (variables, inputs.attention_inputs)),
        "plan": (plan, (inputs.plan_inputs,)),
        "apply": (lambda inputs: [plans.apply(*each) for each in inputs], (inputs.apply_inputs,)),
        "mlp": (mlp, (variables, inputs.mlp_inputs)),
        "head": (
            lambda variables, tokens: model.bind(variables).logits(tokens, False),
            (variables, inputs.head_input),
        ),
    }
    return {
        stage: compile_program(function, *arguments)
        for stage, (function, arguments) in stages.items()
        if plan_specs or stage not in ("plan", "apply")
    }
