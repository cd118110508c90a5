"""Cost of a forward pass on a TPU pod by ahead-of-time (AOT) compilation; requires `pip install -e ".[tpu]"`.

python -m tcvit_jax.measure.tpu --topology v5e:2x2
python -m tcvit_jax.measure.tpu --model deit_base_patch16_224 --reducer gtp,tcvit,tome --schedule 8 --json pod.json

The dense model, the oracle slice (`measure.oracle`) and each reducer are compiled for all chips of a topology, without
a TPU. The batch is sharded over the chips, and parameters are replicated. Operations and bytes are the cost analysis of
the compiler for one chip; bytes are the operands and results of all operations after fusion, in any memory. The figures
are deterministic. They compare programs, not machines.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tcvit_jax.command import Command, PathArgument

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jax.stages import Lowered

    from tcvit_jax.models import ViT

# The TPU compiler requires these variables on a machine without a TPU; its library reads them when it is loaded.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    # Compilation acquires no device, so several processes may load the library.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
COLLECTIVES = (
    "all-gather", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-broadcast", "collective-permute",
    "reduce-scatter",
)  # fmt: skip


@dataclass(frozen=True)
class Program:
    """The cost of one compiled program on one chip.

    Attributes:
        name: `"dense"`, `"oracle"` or the name of a reducer.
        gflop: Floating-point operations in units of 1e9.
        gigabytes: Bytes read and written in units of 1e9.
        arguments_mib: Memory of the arguments in units of 2**20 bytes.
        temporaries_mib: Memory of temporary buffers in units of 2**20 bytes.
        output_mib: Memory of the outputs in units of 2**20 bytes.
        collectives: The number of collectives by kind; empty for none.
        seconds: The compile time in seconds.
    """

    name: str
    gflop: float
    gigabytes: float
    arguments_mib: float
    temporaries_mib: float
    output_mib: float
    collectives: dict[str, int]
    seconds: float


def collectives(text: str) -> dict[str, int]:
    """Count the collectives of a compiled program by kind; an asynchronous start and done pair counts once.

    Args:
        text: The program as text, from `as_text()`.
    """
    kinds = re.findall(rf"\s({'|'.join(COLLECTIVES)})(?:-start)?\(", text)
    return dict(sorted(Counter(kinds).items()))


def pod(topology: str, data: int = 0, model: int = 1) -> Mesh:
    """Return a mesh over the chips of a TPU topology for AOT compilation; no TPU is needed.

    Args:
        topology: The kind of TPU and its chips, such as `"v5e:2x2"`.
        data: As in `sharding.make_mesh`.
        model: As in `sharding.make_mesh`.

    Raises:
        InputError: libtpu is not installed, or the topology is invalid or cannot be divided by `model`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import importlib.util

    from jax.experimental import topologies

    from tcvit_jax.errors import first_line, out_of_range, requires
    from tcvit_jax.sharding import make_mesh

    if importlib.util.find_spec("libtpu") is None:
        raise requires("compilation for TPUs", "libtpu", "run pip install -e '.[tpu]'")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except RuntimeError as error:
        condition = "a TPU topology such as v5e:2x2 or v4:2x2x1"
        raise out_of_range("--topology", topology, condition, first_line(error)) from error
    return make_mesh(data, model, devices)


def compile_forward(name: str, model: ViT, mesh: Mesh, batch_per_chip: int) -> Program:
    """Compile the forward pass of a model and return its cost on one device.

    Args:
        name: The name of the program.
        model: The model.
        mesh: A mesh with one axis, over which the batch is sharded; parameters are replicated.
        batch_per_chip: The number of images per device.
    """
    import jax
    import numpy as np

    from tcvit_jax import sharding
    from tcvit_jax.models import variable_shapes

    replicated, sharded = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    images = jax.ShapeDtypeStruct((batch_per_chip * mesh.size, *model.img_size, model.in_chans), np.float32)
    forward = jax.jit(model.apply, in_shardings=(replicated, sharded), out_shardings=sharded)
    return analyze(name, forward.lower(variable_shapes(model), images))


def analyze(name: str, lowered: Lowered) -> Program:
    """Compile a program and return its cost on one device.

    Args:
        name: The name of the program.
        lowered: The program, lowered for a mesh.

    Raises:
        InputError: The compiler provides no cost analysis.
    """
    from tcvit_jax.errors import invalid

    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    cost, memory, text = program.cost_analysis(), program.memory_analysis(), program.as_text()
    if cost is None or memory is None or text is None:
        raise invalid(f"program {name!r}", "the compiler provides no cost analysis")
    return Program(
        name=name,
        gflop=cost["flops"] / 1e9,
        gigabytes=cost["bytes accessed"] / 1e9,
        arguments_mib=memory.argument_size_in_bytes / 2**20,
        temporaries_mib=memory.temp_size_in_bytes / 2**20,
        output_mib=memory.output_size_in_bytes / 2**20,
        collectives=collectives(text),
        seconds=seconds,
    )


def build_models(
    name: str, reducers: Sequence[str], schedule: int | Sequence[int], dtype: str, depth: int | None = None
) -> dict[str, ViT]:
    """Return the dense model, the oracle slice and one model per reducer, all with the same schedule.

    Args:
        name: The name of the model.
        reducers: The names of reducers.
        schedule: The number of patch tokens removed per block, or one number for each block.
        dtype: The compute dtype.
        depth: The number of blocks; None for that of the model.

    Returns:
        The models by name; the oracle slice is `"oracle"`.

    Raises:
        InputError: A name is unknown, or the schedule does not fit the model.
    """
    from tcvit_jax import models
    from tcvit_jax.measure.oracle import oracle
    from tcvit_jax.reducers import from_config

    overrides: dict[str, Any] = {"dtype": dtype} if depth is None else {"dtype": dtype, "depth": depth}
    dense = models.create_model(name, **overrides)
    condensed = {key: models.condense(dense, from_config({"name": key}), schedule) for key in reducers}
    return {"dense": dense, "oracle": oracle(next(iter(condensed.values()))), **condensed}


def table(programs: Sequence[Program]) -> str:
    """Format programs as a table, with ratios to the program named `"oracle"`.

    Args:
        programs: The programs, one of which is named `"oracle"`.
    """
    base = next(program for program in programs if program.name == "oracle")
    lines = [
        f"{'':10}{'GFLOP':>10}{'ratio':>8}{'GB':>10}{'ratio':>8}"
        f"{'arguments':>12}{'temporaries':>13}{'output':>9}{'compile':>9}  collectives"
    ]
    for p in programs:
        kinds = ", ".join(f"{count} {kind}" for kind, count in p.collectives.items()) or "none"
        lines.append(
            f"{p.name:10}{p.gflop:10.1f}{p.gflop / base.gflop:8.3f}{p.gigabytes:10.2f}"
            f"{p.gigabytes / base.gigabytes:8.3f}{p.arguments_mib:8.0f} MiB{p.temporaries_mib:9.0f} MiB"
            f"{p.output_mib:5.0f} MiB{p.seconds:7.0f} s  {kinds}"
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--topology", default="v5e:2x2", help="TPU topology, such as v5e:2x2, v5e:16x16 or v4:2x2x1")
    parser.add_argument("--model", default="deit_small_patch16_224", help="model name, as in timm")
    parser.add_argument("--reducer", default="gtp,tcvit", help="comma-separated names of reducers")
    parser.add_argument("--schedule", default="13", help="patch tokens removed per block, or one number for each block")
    parser.add_argument("--batch-per-chip", type=int, default=128, help="images per chip")
    parser.add_argument("--dtype", default="bfloat16", help="compute dtype: bfloat16 or float32")
    parser.add_argument(
        "--depth",
        type=int,
        help="number of blocks, such as 2 to compile in a few minutes; by default those of the model",
    )
    parser.add_argument("--json", metavar="FILE", action=PathArgument, help="also write the figures as JSON")


def run(flags: argparse.Namespace) -> None:
    """Compile the models and print the table."""
    import jax

    from tcvit_jax.errors import out_of_range

    # No device but the CPU is initialized. JAX has already read its environment variables, so the option is set here.
    jax.config.update("jax_platforms", "cpu")
    if flags.batch_per_chip < 1:
        raise out_of_range("--batch-per-chip", flags.batch_per_chip, ">= 1")
    # Arguments are checked before libtpu is loaded.
    candidates = build_models(
        flags.model, flags.reducer.split(","), _schedule(flags.schedule), flags.dtype, flags.depth
    )
    mesh, programs = pod(flags.topology), []
    for name, model in candidates.items():
        print(f"compiling {name} ...", file=sys.stderr, flush=True)
        programs.append(compile_forward(name, model, mesh, flags.batch_per_chip))
    print(table(programs))
    if flags.json:
        _write(flags, programs)


def _schedule(text: str) -> int | list[int]:
    """Parse `"13"` or `"13,13,0"`."""
    from tcvit_jax.errors import out_of_range

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        condition = "a number such as 13, or one number for each block such as 13,13,0"
        raise out_of_range("--schedule", text, condition) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _write(flags: argparse.Namespace, programs: Sequence[Program]) -> None:
    import jax

    from tcvit_jax import atomic

    settings = {key: value for key, value in vars(flags).items() if key != "json"}
    figures = {**settings, "jax": jax.__version__, "programs": [asdict(program) for program in programs]}
    atomic.write_json(flags.json, figures)


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.measure.tpu")

if __name__ == "__main__":
    sys.exit(main())
