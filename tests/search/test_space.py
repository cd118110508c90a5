"""Tests of the candidates: how many, and which combinations are left out."""

import pytest

import tcvit_jax as tc
from tcvit_jax import schedule
from tcvit_jax.reducers.cross import FUSIONS, MATCHES, SCORES
from tcvit_jax.search import space as spaces
from tcvit_jax.search.space import Space, describe_left_out
from tests.search.conftest import small_space

SMALL = {"embed_dim": 16, "num_heads": 2, "img_size": 32, "patch_size": 4, "num_classes": 3}


@pytest.fixture(scope="module")
def dense():
    return tc.create_model("vit", depth=2, **SMALL)


def parse(scores="", matches="", fusions="", families="keep_rate", methods=""):
    return Space.parse(scores, matches, fusions, families, methods)


def candidates_of(model, fraction=0.7, **names):
    return parse(**names).candidates(model, fraction * model.cost().total / 1e9)


def test_space_has_all_names_of_the_tables():
    space = Space.parse("all", "all", "all", "all", "all")
    assert (space.scores, space.matches, space.fusions) == (tuple(SCORES), tuple(MATCHES), tuple(FUSIONS))
    assert space.families == tuple(schedule.SCHEDULE_FAMILIES)
    assert tc.ToMe() in space.methods and not any(isinstance(method, tc.Cross) for method in space.methods)


def test_every_combination_is_a_candidate_or_left_out(dense):
    # Three of the scores, because each candidate takes milliseconds.
    scores = ("tome", "gtp", "cls")
    space = Space.parse(",".join(scores), "all", "all", "constant,keep_rate", "all")
    candidates, left_out = space.candidates(dense, 0.7 * dense.cost().total / 1e9)
    combinations = len(scores) * len(MATCHES) * len(FUSIONS)
    variants = sum(1 + sum(len(values) for values in method.SEARCH_SPACE.values()) for method in space.methods)
    assert len(candidates) + sum(left_out.values()) == (combinations + variants) * len(space.families)
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    without_match = [fusion for fusion in FUSIONS.values() if not fusion.needs_match]
    families = len(space.families)
    assert left_out[spaces.NO_MATCH] == len(scores) * len(without_match) * (len(MATCHES) - 1) * families
    assert left_out[spaces.BIPARTITE] == len(without_match) * families
    assert describe_left_out({"x": 1234}) == ["1,234 combinations left out: x"]


def test_candidates_meet_the_budget_and_have_their_family(dense):
    gmacs = 0.7 * dense.cost().total / 1e9
    candidates, _ = parse("gtp", "cosine,graph", "hard,drop", "all", "tome").candidates(dense, gmacs)
    for candidate in candidates:
        assert candidate.macs == candidate.model.cost().total <= 1e9 * gmacs
        assert candidate.model == tc.condense(dense, candidate.reducer, schedule.budget(gmacs, candidate.family))
    keep_rate = [candidate.reducer for candidate in candidates if candidate.family == "keep_rate"]
    assert keep_rate == [
        tc.ToMe(), tc.Cross(score="gtp", match="cosine"), tc.Cross(score="gtp", match="graph"),
        tc.Cross(score="gtp", fuse="drop"),
    ]  # fmt: skip


def test_methods_have_each_value_of_their_search_space(dense):
    candidates, left_out = candidates_of(dense, methods="pitome,gtp(propagation='none')")
    pitome = [each.reducer for each in candidates if isinstance(each.reducer, tc.PiToMe)]
    assert pitome == [tc.PiToMe(), *(tc.PiToMe(margin=value) for value in tc.PiToMe.SEARCH_SPACE["margin"])]
    # The strength of a propagation that does not take place.
    assert left_out[spaces.NO_FIELD] >= len(tc.GTP.SEARCH_SPACE["alpha"])


def test_equal_programs_are_one_candidate(dense):
    names = {"scores": "tome,cls", "matches": "cosine", "fusions": "hard,drop", "methods": "tome,topk"}
    candidates, left_out = candidates_of(dense, 0.75, **names)
    assert [each.reducer for each in candidates] == [tc.ToMe(), tc.TopK(), tc.Cross(score="cls", match="cosine")]
    assert left_out == {spaces.SAME: 2, spaces.BIPARTITE: 1}
    # With one block that removes tokens, all families remove the same.
    shallow = tc.create_model("vit", depth=1, **SMALL)
    candidates, left_out = candidates_of(shallow, 0.9, methods="random", families="constant,keep_rate")
    assert len(candidates) == 1 and left_out == {spaces.SAME: 1}


def test_methods_that_do_not_fit_are_left_out(dense):
    # ToMe removes at most half of the tokens of a block.
    candidates, left_out = candidates_of(dense, 0.45, methods="tome,random")
    assert [each.reducer for each in candidates] == [tc.Random()] and left_out == {spaces.BUDGET: 1}
    pooled = tc.create_model("vit", depth=2, **SMALL, class_token=False, global_pool="avg")
    candidates, left_out = candidates_of(pooled, methods="evit(fuse=false),tome")
    assert [each.reducer for each in candidates] == [tc.ToMe()] and left_out[spaces.CLASS_TOKEN] >= 1
    with pytest.raises(tc.InputError, match="a search requires candidates: 1 times the model has no class token"):
        candidates_of(pooled, methods="topk")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"scores": "gpt"}, "unknown score 'gpt': did you mean 'gtp'?"),
        ({"matches": "cosin"}, "unknown match 'cosin': did you mean 'cosine'?"),
        ({"fusions": "sof"}, "unknown fusion 'sof': did you mean 'soft'?"),
        ({"families": "keep"}, "unknown schedule family 'keep': did you mean 'keep_rate'?"),
        ({"families": ""}, "a search requires schedule families: set --families constant,keep_rate"),
        ({"methods": "tomme"}, "unknown reducer 'tomme': did you mean 'tome'?"),
        ({"methods": "gtp(propagation='none',alpha=0.2)"}, "alpha=0.2 in reducers="),
    ],
)
def test_invalid_names_are_errors(names, message):
    with pytest.raises(tc.InputError) as error:
        small_space(**names)
    assert str(error.value).startswith(message)


def test_a_space_without_candidates_is_an_error(dense):
    with pytest.raises(tc.InputError, match="a search requires candidates: set --methods or --scores"):
        candidates_of(dense)
