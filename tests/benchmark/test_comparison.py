import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, checkpoint, config
from tcvit_jax.benchmark.comparison import build
from tests.benchmark.conftest import save


def load_all(directories):
    return [assembly.from_checkpoint(directory) for directory in directories]


def test_checkpoints_of_one_model_are_its_weights(checkpoints):
    comparison = build(load_all(checkpoints), [tc.GTP()], macs_fractions=(0.85,))
    assert comparison.model.reducer is None
    assert [weights.seed for weights in comparison.weights] == [0, 1]
    assert {weights.recipe for weights in comparison.weights} == {"off the shelf"}
    assert comparison.weights[0].checksum != comparison.weights[1].checksum
    assert comparison.config.data.name == "digits"
    assert comparison.preprocessing.mean == (0.3,)


def test_recipe_names_the_reducer_of_the_training_run(tmp_path):
    trained = save(tmp_path / "gtp", 0, ["--config.reducer.name=gtp", "--config.schedule=5"])
    comparison = build(load_all([trained]), [tc.GTP()], macs_fractions=(0.85,))
    assert comparison.model.reducer is None
    assert comparison.weights[0].recipe == "trained with GTP()"


def test_checkpoint_of_another_model_is_an_error(checkpoints, tmp_path):
    other = save(tmp_path / "wide", 0, ["--config.model.embed_dim=32"])
    with pytest.raises(tc.InputError, match="expected the same model and preprocessing as"):
        build(load_all([*checkpoints, other]), [tc.GTP()])


def test_comparison_from_a_config_file_with_weights(checkpoints):
    small = ["--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2"]
    loaded = config.load("configs/digits_gtp.py", small, changes={"weights": checkpoints[0]})
    comparison = build([assembly.from_weights(loaded)], [tc.GTP()], macs_fractions=(0.85,))
    assert comparison.model.reducer is None and comparison.model.depth == 2
    assert comparison.weights[0].checksum == checkpoint.checksum(load_all(checkpoints[:1])[0].variables)
    with pytest.raises(tc.InputError, match="requires weights: set --weights FILE"):
        assembly.from_weights(config.load("configs/digits_gtp.py", small))


def test_each_reducer_meets_the_budget_with_its_default_schedule_family(checkpoints):
    comparison = build(load_all(checkpoints[:1]), [tc.GTP(), tc.EViT(), tc.PiToMe()], macs_fractions=(0.85,))
    dense = comparison.model.cost().total
    assert comparison.budgets == (0.85 * dense / 1e9,)
    entries = comparison.entries(comparison.budgets[0])
    assert [entry.name for entry in entries] == ["dense", "GTP()", "EViT()", "PiToMe()"]
    for entry in entries[1:]:
        assert 0.9 * 0.85 * dense < entry.model.cost().total <= 0.85 * dense


@pytest.mark.parametrize(
    ("methods", "values", "message"),
    [
        ([], {}, "a benchmark requires reducers: set --reducers gtp,tcvit"),
        ([tc.GTP(), tc.GTP()], {}, "--reducers: GTP() is listed twice; list each reducer once"),
        ([tc.GTP()], {"macs_fractions": (1.5,)}, "--macs-fraction=1.5: must be > 0 and < 1; 0.5 is half of the MACs of the dense model"),
        ([tc.GTP()], {"gmacs": (9.0,)}, "--gmacs=9.0: must be > 0 and < 0.0003174; the dense model sets the upper limit"),
        ([tc.GTP()], {"schedule_family": "stage"}, "unknown schedule_family 'stage': did you mean 'stages'?"),
        ([tc.GTP()], {"macs_fractions": ()}, "a benchmark requires budgets: set --macs-fraction 0.75,0.5 or --gmacs 3.4"),
        ([tc.GTP()], {"batch": 0}, "--batch=0: must be >= 1"),
        ([tc.GTP()], {"rounds": 0}, "--rounds=0: must be >= 1"),
        ([tc.GTP()], {"calibrate": -1}, "--calibrate=-1: must be >= 0; 0 disables calibration"),
    ],
)  # fmt: skip
def test_invalid_settings_are_errors(checkpoints, methods, values, message):
    with pytest.raises(tc.InputError) as error:
        build(load_all(checkpoints[:1]), methods, **values)
    assert str(error.value) == message


def test_reducer_that_cannot_meet_a_budget_is_an_error(checkpoints):
    with pytest.raises(tc.InputError, match=r"^GTP\(\): budget gmacs=.*: must be >= "):
        build(load_all(checkpoints[:1]), [tc.EViT(), tc.GTP()], macs_fractions=(0.6,))


def test_settings_have_the_batch_size_and_versions(checkpoints):
    pretrained = load_all(checkpoints[:1])
    first, second = (build(pretrained, [tc.GTP()], macs_fractions=(0.85,), batch=batch).settings for batch in (8, 9))
    assert {key for key in first if first[key] != second[key]} == {"batch"}
    assert first["versions"]["jax"]
