"""What a training step costs on a TPU pod, compiled for one without one; needs `pip install -e ".[tpu]"`.

python -m tcvit_jax.training.pod --config configs/deit_b_gtp.py --topology v5e:16x16 --config.batch_size=4096

The step that `train.py` would run with this configuration, with its recipe, its teacher and its mesh, is compiled for
all chips, at a constant rate and without label maps; nothing is trained, and no data are needed.
`--config.model.depth=2` compiles in a minute.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tcvit_jax.command import Command

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from tcvit_jax.config import Config
    from tcvit_jax.measure.tpu import Program


# The keys that a step depends on, at a constant learning rate.
KEYS = (
    "model.", "weights", "new_head", "reducer.", "schedule", "gmacs", "schedule_family", "mixing.", "random_erasing",
    "label_smoothing", "token_labels", "distill.", "optimizer.lr", "optimizer.weight_decay", "optimizer.b1",
    "optimizer.b2", "optimizer.clip_norm", "optimizer.layer_decay", "optimizer.ema_decay", "mesh.", "batch_size",
    "accumulate", "seed", "data.mean", "data.std",
)  # fmt: skip


def compile_step(config: Config, mesh: Mesh) -> Program:
    """What the training step of a configuration costs on each device of a mesh.

    Raises:
        InputError: a configuration that cannot be run on it.
    """
    import jax
    import numpy as np
    import optax  # pyright: ignore[reportMissingTypeStubs]

    from tcvit_jax import models
    from tcvit_jax.measure import tpu
    from tcvit_jax.training import optimizer, recipe
    from tcvit_jax.training.step import make_init, make_train_step

    found, run = recipe.build(config, mesh), config.run
    model, teacher = found.model, found.objective.teacher
    tx = optimizer.adamw(config.optimizer, optax.constant_schedule(config.optimizer.lr), model.PARAMETERS, model.depth)
    step: Any = make_train_step(
        found.objective, tx, mesh, seed=run.seed, ema_decay=config.optimizer.ema_decay, accumulate=run.accumulate
    )
    state = jax.eval_shape(make_init(model, tx, run.seed))  # pyright: ignore[reportUnknownMemberType]
    # Whatever a teacher's weights are, its step is the same.
    teacher_variables = {} if teacher is None else models.variable_shapes(teacher.model)
    images = (run.batch_size, *model.img_size, model.in_chans)
    batch = {
        "image": jax.ShapeDtypeStruct(images, np.uint8),
        "label": jax.ShapeDtypeStruct((run.batch_size,), np.int32),
    }
    return tpu.analyze("step", step.lower(state, teacher_variables, batch))


def describe(program: Program, mesh: Mesh, config: Config) -> str:
    """One program as lines."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in program.collectives.items()) or "none"
    memory = program.arguments_mib + program.temporaries_mib
    return (
        f"step         {config.model.name}, {config.reduction.name}, {config.run.batch_size} images on {mesh.size} "
        f"chips, mesh {mesh.shape['data']} x {mesh.shape['model']}\n"
        f"GFLOP        {program.gflop:,.1f} a chip, {program.gflop * mesh.size / config.run.batch_size:.2f} an image\n"
        f"GB           {program.gigabytes:,.2f} read and written, a chip\n"
        f"memory       {memory:,.0f} MiB a chip: arguments {program.arguments_mib:,.0f}, temporaries "
        f"{program.temporaries_mib:,.0f}, output {program.output_mib:,.0f} (in the arguments' place)\n"
        f"collectives  {kinds}\n"
        f"compiled in  {program.seconds:.0f} s"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--config", required=True, help="a file of configs/ or your own: FILE.py, or FILE.py:RECIPE")
    parser.add_argument("--topology", default="v5e:2x2", help="kind of TPU and its chips, v5e:2x2, v5e:16x16, v4:2x2x1")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")


def run(flags: argparse.Namespace) -> None:
    """Print what the step of a configuration costs."""
    import jax

    from tcvit_jax import atomic
    from tcvit_jax import config as configs
    from tcvit_jax.measure import tpu

    # No other device is wanted, whatever the machine has; not by a variable of the environment, which jax has read.
    jax.config.update("jax_platforms", "cpu")  # pyright: ignore[reportUnknownMemberType]
    config = configs.load(flags.config, flags.overrides, configs.Scope("tcvit_jax.training.pod", KEYS))
    mesh = tpu.pod(flags.topology, config.mesh.data, config.mesh.model)
    program = compile_step(config, mesh)
    print(describe(program, mesh, config))
    if flags.json:
        figures = {"config": config.to_mapping(), "topology": flags.topology, **asdict(program)}
        atomic.write_json(flags.json, {"jax": jax.__version__, **figures})


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.training.pod", has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
