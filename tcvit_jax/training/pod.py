"""What a training step costs on a TPU pod, compiled for one without one; needs `pip install -e ".[tpu]"`.

python -m tcvit_jax.training.pod --config configs/deit_b_gtp.py --topology v5e:16x16 --config.batch_size=4096

The step that `train.py` would run with this configuration, with its recipe, its teacher and its mesh, is compiled for
all chips, at a constant rate and without label maps; nothing is trained, and no data are needed.
`--config.model.depth=2` compiles in a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from tcvit_jax.config import Config
    from tcvit_jax.measure.tpu import Program


def compiled_step(config: Config, mesh: Mesh) -> Program:
    """What the training step of a configuration costs on each device of a mesh.

    Raises:
        InputError: a configuration that cannot be run on it.
    """
    import jax
    import numpy as np
    import optax

    from tcvit_jax import models, sharding
    from tcvit_jax.measure import tpu
    from tcvit_jax.training import experiment, job, optimizer
    from tcvit_jax.training.step import make_init, make_train_step

    job.check_numbers(config)
    model = experiment.build_model(config)
    sharding.check_shared(models.parameter_shapes(model), mesh, model.PARAMETERS)
    # Whatever a teacher's weights are, its step is the same.
    teacher, taught, _ = job.teacher_of(config, model, experiment.build_preprocessing(config, model), {})
    objective = job.objective_of(config, model, experiment.build_preprocessing(config, model), teacher)
    rows = config.accumulate * (2 if objective.pairs else 1)
    sharding.check_divisible("batch_size", config.batch_size, mesh, rows)
    schedule = optax.constant_schedule(config.optimizer.lr)
    tx = optimizer.adamw(config.optimizer, schedule, model.PARAMETERS, model.depth)
    step: Any = make_train_step(
        objective, tx, mesh, seed=config.seed, ema_decay=config.optimizer.ema_decay, accumulate=config.accumulate
    )
    state = jax.eval_shape(make_init(model, tx, config.seed))
    if teacher is not None and not taught:
        taught = models.variable_shapes(teacher.model)
    shown = (config.batch_size, *model.img_size, model.in_chans)
    batch = {
        "image": jax.ShapeDtypeStruct(shown, np.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), np.int32),
    }
    return tpu.priced("step", step.lower(state, taught, batch))


def describe(program: Program, mesh: Mesh, config: Config) -> str:
    """One program as lines."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in program.collectives.items()) or "none"
    memory = program.arguments_mib + program.temporaries_mib
    return (
        f"step         {config.model.name}, {config.reducer.name}, {config.batch_size} images on {mesh.size} chips, "
        f"mesh {mesh.shape['data']} x {mesh.shape['model']}\n"
        f"GFLOP        {program.gflop:,.1f} a chip, {program.gflop * mesh.size / config.batch_size:.2f} an image\n"
        f"GB           {program.gigabytes:,.2f} read and written, a chip\n"
        f"memory       {memory:,.0f} MiB a chip: arguments {program.arguments_mib:,.0f}, temporaries "
        f"{program.temporaries_mib:,.0f}, output {program.output_mib:,.0f} (in the arguments' place)\n"
        f"collectives  {kinds}\n"
        f"compiled in  {program.seconds:.0f} s"
    )


def main(arguments: list[str]) -> int:
    """Flags to the figures; a mistake is one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tcvit_jax.training.pod", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", required=True, help="a file of configs/, or your own with get_config()")
    parser.add_argument("--topology", default="v5e:2x2", help="kind of TPU and its chips, v5e:2x2, v5e:16x16, v4:2x2x1")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    flags, overrides = parser.parse_known_args(arguments)

    import jax

    from tcvit_jax import config as configs
    from tcvit_jax.errors import InputError
    from tcvit_jax.measure import tpu

    # No other device is wanted, whatever the machine has; not by a variable of the environment, which jax has read.
    jax.config.update("jax_platforms", "cpu")
    try:
        config = configs.load(flags.config, overrides)
        mesh = tpu.pod(flags.topology, config.mesh.data, config.mesh.model)
        program = compiled_step(config, mesh)
        print(describe(program, mesh, config))
        if flags.json:
            _write(flags.json, {"config": config.to_dict(), "topology": flags.topology, **asdict(program)})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(path: str, figures: dict[str, Any]) -> None:
    import jax

    from tcvit_jax.errors import InputError

    try:
        with open(path, "w") as file:
            json.dump({"jax": jax.__version__, **figures}, file, indent=2)
    except OSError as error:
        raise InputError(f"--json {path!r} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
