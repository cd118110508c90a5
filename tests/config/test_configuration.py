"""Sections, their conversion to plain values, and changes by key."""

import ast
import inspect
import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.config import Config, Data, Distillation, Mesh, Mixing, Model, Optimizer, Reduction, ReductionWarmup, Run

PACKAGE = Path(tc.__file__).parent

changes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "epochs": st.floats(0.1, 1000),
        "data.name": st.text(min_size=1),
        "data.mean": st.tuples(*[st.floats(0, 1)] * 3),
        "model.img_size": st.one_of(st.integers(1, 512), st.tuples(st.integers(1, 512), st.integers(1, 512))),
        "model.fc_norm": st.booleans(),
        "mixing.mixup": st.floats(0, 2),
        "optimizer.lr": st.floats(1e-6, 1),
        "reducer.name": st.sampled_from(["gtp", "tcvit", "tome", "evit"]),
    },
)


@given(changes)
def test_plain_values_round_trip(values):
    if "reducer.name" in values:
        values = {**values, "schedule": 3}
    config = Config().updated(values)
    assert Config.from_mapping(config.to_mapping()) == config
    assert Config.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config
    assert Config().updated(values) == config
    for key, value in values.items():
        assert config.values()[key] == value


def test_sections_are_immutable():
    config = Config()
    for section in (config, config.data, config.reduction):
        with pytest.raises(FrozenInstanceError):
            section.name = "other"
    # The section has a copy of the mapping.
    overrides = {"depth": 2}
    model = Model(overrides=overrides)
    overrides["depth"] = 3
    assert model.overrides == {"depth": 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Run(epochs=0), "epochs=0.0: must be > 0"),
        (lambda: Run(seed=-1), "seed=-1: must be in [0, 2**32)"),
        (lambda: Run(batch_size=1.5), "batch_size=1.5: must be an integer, such as 1024"),
        (lambda: Data(repeats=0), "data.repeats=0: must be >= 1"),
        (lambda: Data(mean=("x",)), "data.mean=('x',): must be a tuple of numbers, such as (0.485, 0.456, 0.406)"),
        (lambda: Data(workers=True), "data.workers=True: must be an integer, such as 4"),
        (lambda: Mixing(prob=1.5), "mixing.prob=1.5: must be in [0, 1]"),
        (lambda: Mixing(label_smoothing=1), "label_smoothing=1.0: must be in [0, 1)"),
        (lambda: Mixing(mixup=float("nan")), "mixing.mixup=nan: must be >= 0"),
        (lambda: Distillation(kind="sof"), "unknown distill.kind 'sof': did you mean 'soft'?"),
        (lambda: Distillation(temperature=0), "distill.temperature=0.0: must be > 0"),
        (lambda: Optimizer(layer_decay=0), "optimizer.layer_decay=0.0: must be in (0, 1]"),
        (lambda: Optimizer(b1=1.0), "optimizer.b1=1.0: must be in [0, 1)"),
        (lambda: Mesh(model=0), "mesh.model=0: must be >= 1"),
        (lambda: ReductionWarmup(stages=0), "reduction_warmup.stages=0: must be >= 1"),
        (lambda: Reduction(schedule_family="stage"), "unknown schedule_family 'stage': did you mean 'stages'?"),
        (lambda: Reduction(schedule="many"), "schedule='many': must be an integer or a tuple of integers, such as 0"),
        (lambda: Reduction(reducer="gtp"), "reducer='gtp': must be a Reducer, such as GTP()"),
        (lambda: Model(overrides={"detph": 2}), "unknown config key 'model.detph': did you mean 'model.depth'?"),
        (lambda: Model(overrides={"depth": "2"}), "model.depth='2': must be an integer, such as 12"),
        (lambda: Model(new_head=1), "new_head=1: must be True or False"),
    ],
)
def test_sections_check_types_and_ranges(make, message):
    with pytest.raises(tc.InputError) as error:
        make()
    assert str(error.value) == message


def test_last_of_two_exclusive_changes_wins():
    config = Config().updated({"reducer.name": "gtp", "reducer.alpha": 0.2, "gmacs": 3.0, "schedule_family": "stages"})
    assert config.reduction == Reduction(tc.GTP(alpha=0.2), gmacs=3.0, schedule_family="stages")
    assert config.updated({"schedule": 8}).reduction == Reduction(tc.GTP(alpha=0.2), 8)
    assert config.updated({"schedule": 8, "gmacs": 2.0}).reduction == Reduction(tc.GTP(alpha=0.2), gmacs=2.0)
    assert config.updated({"reducer.name": "tome"}).reduction == Reduction(
        tc.ToMe(), gmacs=3.0, schedule_family="stages"
    )
    assert config.updated({"reducer.name": "none"}).reduction == Reduction()


def test_unknown_keys_suggest_the_nearest():
    with pytest.raises(tc.InputError, match="^unknown config key 'optimizer.lrr': did you mean 'optimizer.lr'"):
        Config().updated({"optimizer.lrr": 1.0})
    with pytest.raises(tc.InputError, match="^unknown config key 'reducer.alhpa': did you mean 'reducer.alpha'"):
        Config().updated({"reducer.name": "gtp", "reducer.alhpa": 1.0})


def test_config_dicts_and_overrides_stay_in_the_config_package():
    """No other module uses `ConfigDict` or `ml_collections`, or takes override strings as an argument."""
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "config"):
            continue
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "ConfigDict" not in names and not any((name or "").startswith("ml_collections") for name in modules), (
            path
        )
        # Only commands handle override strings; functions take sections or plain mappings.
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            arguments = {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
            assert path.parent.name == "convert" or "overrides" not in arguments, (path, function.name)


def test_library_functions_take_sections():
    from tcvit_jax import assembly
    from tcvit_jax.training import loop, optimizer, recipe, reduction_warmup

    sections = {
        assembly.build_model: ["Model", "Reduction"],
        assembly.build_preprocessing: ["Data"],
        assembly.build_train_data: ["Data", "Run"],
        recipe.build: ["Config"],
        loop.train: ["Config"],
        optimizer.learning_rate: ["Optimizer"],
        reduction_warmup.stages: ["ReductionWarmup"],
    }
    for function, expected in sections.items():
        annotations = [each.annotation for each in inspect.signature(function).parameters.values()]
        assert annotations[: len(expected)] == expected, function
