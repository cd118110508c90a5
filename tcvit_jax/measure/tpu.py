"""What a forward pass costs on a TPU pod, compiled for one without one; needs `pip install -e ".[tpu]"`.

python -m tcvit_jax.measure.tpu --topology v5e:2x2
python -m tcvit_jax.measure.tpu --model deit_base_patch16_224 --reducer gtp,tcvit,tome --schedule 8 --json pod.json

The dense model, the slice (as many tokens leave each block, for free: `measure.oracle`) and each reducer are compiled
for all chips of a topology, the batch cut over them and the parameters on each. Operations and bytes are the
compiler's own count for one chip: of bytes, every operand and result of every operation that it did not fuse, wherever
they are kept. The figures are the same at every run, and compare programs, not machines.
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

from tcvit_jax.command import Command

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jax.stages import Lowered

    from tcvit_jax.models import ViT

# What the TPU compiler asks a machine without a TPU for; read when its library is loaded.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    # It compiles and holds no device: several processes may.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
COLLECTIVES = (
    "all-gather", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-broadcast", "collective-permute",
    "reduce-scatter",
)  # fmt: skip


@dataclass(frozen=True)
class Program:
    """One compiled program, for one chip.

    Attributes:
        name: `"dense"`, `"slice"` or the reducer's.
        gflop, gigabytes: 1e9 operations, and bytes that they read and write.
        arguments_mib, temporaries_mib, output_mib: memory, in 2**20 bytes.
        collectives: how many of each kind it holds; empty for none.
        seconds: that it took to compile.
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
    """How many collectives of each kind a compiled program (`as_text()`) holds; one in two halves counts once."""
    found = re.findall(rf"\s({'|'.join(COLLECTIVES)})(?:-start)?\(", text)
    return dict(sorted(Counter(found).items()))


def pod(topology: str, data: int = 0, model: int = 1) -> Mesh:
    """A mesh over the chips of a TPU topology, such as `"v5e:2x2"`, that nobody has to own.

    Args:
        topology: kind of TPU and its chips.
        data, model: as for `sharding.make_mesh`.

    Raises:
        InputError: libtpu, the compiler's library, is not installed, or the topology is none, or not for `model`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import importlib.util

    from jax.experimental import topologies

    from tcvit_jax.errors import InputError, first_line
    from tcvit_jax.sharding import make_mesh

    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu is not installed, which compiles for TPUs: pip install -e '.[tpu]'")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except RuntimeError as error:
        message = f"--topology {topology!r} is none that can be compiled for, like v5e:2x2 or v4:2x2x1"
        raise InputError(f"{message}: {first_line(error)}") from error
    return make_mesh(data, model, devices)


def compile_forward(name: str, model: ViT, mesh: Mesh, batch_per_chip: int) -> Program:
    """What the forward pass of `model` costs on each device of a mesh of one axis."""
    import jax
    import numpy as np

    from tcvit_jax import sharding
    from tcvit_jax.models import variable_shapes

    whole, cut = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    images = jax.ShapeDtypeStruct((batch_per_chip * mesh.size, *model.img_size, model.in_chans), np.float32)
    forward = jax.jit(model.apply, in_shardings=(whole, cut), out_shardings=cut)
    return analyze(name, forward.lower(variable_shapes(model), images))


def analyze(name: str, lowered: Lowered) -> Program:
    """What a program costs on each device of the mesh that it was lowered for; it is compiled here.

    Raises:
        InputError: the compiler does not say.
    """
    from tcvit_jax.errors import InputError

    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    cost, memory, text = program.cost_analysis(), program.memory_analysis(), program.as_text()
    if cost is None or memory is None or text is None:
        raise InputError(f"the compiler does not tell what program {name!r} costs")
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
    """The dense model, the slice and one model for each reducer, all of one schedule.

    Raises:
        InputError: a name that is none, or a schedule that does not fit.
    """
    from tcvit_jax import models
    from tcvit_jax.measure.oracle import oracle
    from tcvit_jax.reducers import from_config

    overrides: dict[str, Any] = {"dtype": dtype} if depth is None else {"dtype": dtype, "depth": depth}
    dense = models.create_model(name, **overrides)
    condensed = {key: models.condense(dense, from_config({"name": key}), schedule) for key in reducers}
    return {"dense": dense, "slice": oracle(next(iter(condensed.values()))), **condensed}


def table(programs: Sequence[Program]) -> str:
    """Programs as rows, with their ratios to the one named `"slice"`."""
    base = next(program for program in programs if program.name == "slice")
    lines = [
        f"{'':10}{'GFLOP':>10}{'ratio':>8}{'GB':>10}{'ratio':>8}"
        f"{'arguments':>12}{'temporaries':>13}{'output':>9}{'compile':>9}  collectives"
    ]
    for it in programs:
        kinds = ", ".join(f"{count} {kind}" for kind, count in it.collectives.items()) or "none"
        lines.append(
            f"{it.name:10}{it.gflop:10.1f}{it.gflop / base.gflop:8.3f}{it.gigabytes:10.2f}"
            f"{it.gigabytes / base.gigabytes:8.3f}{it.arguments_mib:8.0f} MiB{it.temporaries_mib:9.0f} MiB"
            f"{it.output_mib:5.0f} MiB{it.seconds:7.0f} s  {kinds}"
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--topology", default="v5e:2x2", help="kind of TPU and its chips, v5e:2x2, v5e:16x16, v4:2x2x1")
    parser.add_argument("--model", default="deit_small_patch16_224", help="timm's name")
    parser.add_argument("--reducer", default="gtp,tcvit", help="names of methods, with commas between them")
    parser.add_argument("--schedule", default="13", help="patch tokens that leave each block, or one number for each")
    parser.add_argument("--batch-per-chip", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", help="of the computation: bfloat16 or float32")
    parser.add_argument("--depth", type=int, help="another number of blocks: two compile in a few minutes")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")


def run(flags: argparse.Namespace) -> None:
    """Compile the models, and print the table."""
    import jax

    from tcvit_jax.errors import InputError

    # No other device is wanted, whatever the machine has; not by a variable of the environment, which jax has read.
    jax.config.update("jax_platforms", "cpu")
    if flags.batch_per_chip < 1:
        raise InputError(f"--batch-per-chip {flags.batch_per_chip} is no batch: use 128")
    # What the command was asked is checked before the compiler is looked for.
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
    """`"13"` or `"13,13,0"`."""
    from tcvit_jax.errors import InputError

    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--schedule {text!r} should be like 13, or 13,13,0 with a number for each block") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _write(flags: argparse.Namespace, programs: Sequence[Program]) -> None:
    import jax

    from tcvit_jax import atomic

    asked = {key: value for key, value in vars(flags).items() if key != "json"}
    figures = {**asked, "jax": jax.__version__, "programs": [asdict(program) for program in programs]}
    atomic.write_json(flags.json, figures)


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.measure.tpu")

if __name__ == "__main__":
    sys.exit(main())
