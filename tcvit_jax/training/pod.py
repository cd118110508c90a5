"""Cost of a training step on a TPU pod, by ahead-of-time (AOT) compilation; requires `pip install -e ".[tpu]"`.

python -m tcvit_jax.training.pod --config configs/deit_b_gtp.py --topology v5e:16x16 --config.batch_size=4096

Compile the step that `train.py` runs with a configuration, including its teacher and its mesh, for all chips of a
topology. No TPU and no data are needed. The learning rate is constant, and label maps are left out. With
`--config.model.depth=2` it compiles in a minute.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tcvit_jax.command import Command, PathArgument

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from tcvit_jax.config import Config
    from tcvit_jax.measure.tpu import Program


# The configuration keys that affect the step, at a constant learning rate.
KEYS = (
    "model.", "weights", "new_head", "reducer.", "schedule", "gmacs", "schedule_family", "mixing.", "random_erasing",
    "label_smoothing", "token_labels", "distill.", "optimizer.lr", "optimizer.weight_decay", "optimizer.b1",
    "optimizer.b2", "optimizer.clip_norm", "optimizer.layer_decay", "optimizer.ema_decay", "mesh.", "batch_size",
    "accumulate", "seed", "data.mean", "data.std",
)  # fmt: skip


def compile_step(config: Config, mesh: Mesh) -> Program:
    """Compile the training step of a configuration and return its cost per device.

    Args:
        config: The configuration.
        mesh: The device mesh.

    Raises:
        InputError: The configuration cannot run on the mesh.
    """
    import jax
    import numpy as np
    import optax  # pyright: ignore[reportMissingTypeStubs]

    from tcvit_jax import models
    from tcvit_jax.measure import tpu
    from tcvit_jax.training import optimizer
    from tcvit_jax.training import recipe as recipes
    from tcvit_jax.training.step import make_init, make_train_step

    recipe, run = recipes.build(config, mesh), config.run
    model, teacher = recipe.model, recipe.objective.teacher
    tx = optimizer.adamw(config.optimizer, optax.constant_schedule(config.optimizer.lr), model.PARAMETERS, model.depth)
    step: Any = make_train_step(
        recipe.objective, tx, mesh, seed=run.seed, ema_decay=config.optimizer.ema_decay, accumulate=run.accumulate
    )
    state = jax.eval_shape(make_init(model, tx, run.seed))  # pyright: ignore[reportUnknownMemberType]
    # The compiled step does not depend on the values of the teacher's weights.
    teacher_variables = {} if teacher is None else models.variable_shapes(teacher.model)
    image_shape = (run.batch_size, *model.img_size, model.in_chans)
    batch = {
        "image": jax.ShapeDtypeStruct(image_shape, np.uint8),
        "label": jax.ShapeDtypeStruct((run.batch_size,), np.int32),
    }
    return tpu.analyze("step", step.lower(state, teacher_variables, batch))


def describe(program: Program, mesh: Mesh, config: Config) -> str:
    """Return a report of the cost of a step.

    Args:
        program: The compiled step.
        mesh: The device mesh.
        config: The configuration.
    """
    kinds = ", ".join(f"{count} {kind}" for kind, count in program.collectives.items()) or "none"
    memory = program.arguments_mib + program.temporaries_mib
    image_gflop = program.gflop * mesh.size / config.run.batch_size
    return (
        f"step         {config.model.name}, {config.reduction.name}, {config.run.batch_size:,} images on {mesh.size} "
        f"chips, mesh {mesh.shape['data']} x {mesh.shape['model']}\n"
        f"GFLOP        {program.gflop:,.1f} per chip, {image_gflop:.2f} per image\n"
        f"GB           {program.gigabytes:,.2f} accessed per chip\n"
        f"memory       {memory:,.0f} MiB per chip: arguments {program.arguments_mib:,.0f}, temporaries "
        f"{program.temporaries_mib:,.0f}, outputs {program.output_mib:,.0f} (alias the arguments)\n"
        f"collectives  {kinds}\n"
        f"compiled in  {program.seconds:.0f} s"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command-line arguments."""
    parser.add_argument(
        "--config", required=True, action=PathArgument, help="configuration file: FILE.py or FILE.py:RECIPE"
    )
    parser.add_argument("--topology", default="v5e:2x2", help="TPU topology, such as v5e:2x2, v5e:16x16 or v4:2x2x1")
    parser.add_argument("--json", metavar="FILE", action=PathArgument, help="also write the figures to this JSON file")


def run(flags: argparse.Namespace) -> None:
    """Print the cost of the training step of a configuration."""
    import jax

    from tcvit_jax import atomic
    from tcvit_jax import config as configs
    from tcvit_jax.measure import tpu
    from tcvit_jax.report.progress import announce_slow

    # Use no other device of this machine. JAX has read the environment variable already.
    jax.config.update("jax_platforms", "cpu")  # pyright: ignore[reportUnknownMemberType]
    config = configs.load(flags.config, flags.overrides, configs.Scope("tcvit_jax.training.pod", KEYS))
    mesh = tpu.pod(flags.topology, config.mesh.data, config.mesh.model)
    with announce_slow(f"compiling the training step of {config.model.name}"):
        program = compile_step(config, mesh)
    print(describe(program, mesh, config))
    if flags.json:
        figures = {"config": config.to_mapping(), "topology": flags.topology, **asdict(program)}
        atomic.write_json(flags.json, {"jax": jax.__version__, **figures})


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.training.pod", has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
