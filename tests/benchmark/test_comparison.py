import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, checkpoint, config
from tcvit_jax.benchmark.comparison import build
from tests.benchmark.conftest import save


def weights_of(directories):
    return [assembly.from_checkpoint(directory) for directory in directories]


def test_checkpoints_of_one_model_are_its_weights(checkpoints):
    found = build(weights_of(checkpoints), [tc.GTP()], shares=(0.85,))
    assert found.model.reducer is None
    assert [each.seed for each in found.weights] == [0, 1]
    assert {each.recipe for each in found.weights} == {"off the shelf"}
    assert found.weights[0].checksum != found.weights[1].checksum
    assert found.config.data.name == "digits"
    assert found.preprocessing.mean == (0.3,)


def test_weights_that_were_trained_with_a_reducer_say_so(tmp_path):
    trained = save(tmp_path / "gtp", 0, ["--config.reducer.name=gtp", "--config.schedule=5"])
    found = build(weights_of([trained]), [tc.GTP()], shares=(0.85,))
    assert found.model.reducer is None
    assert found.weights[0].recipe == "trained with GTP()"


def test_another_model_is_refused(checkpoints, tmp_path):
    other = save(tmp_path / "wide", 0, ["--config.model.embed_dim=32"])
    with pytest.raises(tc.InputError, match="holds another model than"):
        build(weights_of([*checkpoints, other]), [tc.GTP()])


def test_a_configuration_brings_a_model_and_names_its_weights(checkpoints):
    small = ["--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2"]
    loaded = config.load("configs/digits_gtp.py", small, changes={"weights": checkpoints[0]})
    found = build([assembly.from_weights(loaded)], [tc.GTP()], shares=(0.85,))
    assert found.model.reducer is None and found.model.depth == 2
    assert found.weights[0].checksum == checkpoint.checksum(weights_of(checkpoints[:1])[0].variables)
    with pytest.raises(tc.InputError, match="requires weights: set --weights FILE"):
        assembly.from_weights(config.load("configs/digits_gtp.py", small))


def test_every_method_meets_the_budget_with_its_own_shape(checkpoints):
    comparison = build(weights_of(checkpoints[:1]), [tc.GTP(), tc.EViT(), tc.PiToMe()], shares=(0.85,))
    dense = comparison.model.cost().total
    assert comparison.budgets == (0.85 * dense / 1e9,)
    entries = comparison.entries(comparison.budgets[0])
    assert [entry.name for entry in entries] == ["dense", "GTP()", "EViT()", "PiToMe()"]
    for entry in entries[1:]:
        assert 0.9 * 0.85 * dense < entry.model.cost().total <= 0.85 * dense


@pytest.mark.parametrize(
    ("methods", "values", "message"),
    [
        ([], {}, "no reducer to compare: use --reducers gtp,tcvit"),
        ([tc.GTP(), tc.GTP()], {}, "reducer GTP() is named twice: once is enough"),
        ([tc.GTP()], {"shares": (1.5,)}, "share=1.5 is not between 0 and 1: 0.5 is half of the dense model's multiply-adds"),
        ([tc.GTP()], {"gmacs": (9.0,)}, "gmacs=9 is no budget below the dense model's 0.0003174"),
        ([tc.GTP()], {"schedule_family": "stage"}, "unknown schedule_family 'stage': did you mean 'stages'?"),
        ([tc.GTP()], {"shares": ()}, "no budget to compare at: use --share 0.75,0.5 or --gmacs 3.4"),
        ([tc.GTP()], {"batch": 0}, "batch=0 is not positive"),
        ([tc.GTP()], {"rounds": 0}, "rounds=0 is not positive"),
        ([tc.GTP()], {"calibrate": -1}, "calibrate=-1 is negative: 0 takes parameters as they are given"),
    ],
)  # fmt: skip
def test_mistakes_name_the_value(checkpoints, methods, values, message):
    with pytest.raises(tc.InputError) as caught:
        build(weights_of(checkpoints[:1]), methods, **values)
    assert str(caught.value) == message


def test_a_method_that_cannot_meet_a_budget_is_named(checkpoints):
    with pytest.raises(tc.InputError, match=r"^GTP\(\): budget gmacs=.* cannot be met: the least is"):
        build(weights_of(checkpoints[:1]), [tc.EViT(), tc.GTP()], shares=(0.6,))


def test_settings_hold_what_numbers_depend_on(checkpoints):
    found = weights_of(checkpoints[:1])
    one, other = (build(found, [tc.GTP()], shares=(0.85,), batch=batch).settings for batch in (8, 9))
    assert {key for key in one if one[key] != other[key]} == {"batch"}
    assert one["versions"]["jax"]
