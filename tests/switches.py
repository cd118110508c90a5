"""Every method with every switch of it thrown once: the list that tests of all reducers run through.

A new reducer joins with its defaults by itself; its switches are a few more lines here.
"""

import pytest

import tcvit_jax as tc
from tcvit_jax.reducers import REDUCERS
from tcvit_jax.reducers.gtp import GRAPHS, SCORE_NAMES
from tcvit_jax.reducers.tcvit import OPTIONS

_GTP = [
    *(tc.GTP(score=score) for score in SCORE_NAMES),
    *(tc.GTP(graph=graph) for graph in GRAPHS),
    *(tc.GTP(propagation=propagation) for propagation in ("mean", "none")),
    tc.GTP(attention_keep=0.7),
    tc.GTP(alpha=0.4, neighbors=3, proportional_attention=False),
]
_TCVIT = [
    *(tc.TCViT(**{switch: value}) for switch, values in OPTIONS.items() for value in values),
    *(tc.TCViT(order=order, match_order=match) for order, match in ((1, 1), (3, 1), (1, 8))),
    *(tc.TCViT(walk=walk, order=4, gamma=0.7) for walk in ("cumulative", "katz", "lazy")),
    *(tc.TCViT(fuse=fuse, temperature=0.3, top_m=2, grad_through_soft=True) for fuse in ("soft", "topm")),
    tc.TCViT(match_norm="lift", direction="both", fuse="soft"),
    tc.TCViT(graph="patch", self_loops=False, renormalize=True),
    tc.TCViT(balance=0.0, fuse="drop"),
    tc.TCViT(dominance="gap", walk="lazy"),
    tc.TCViT(balance=1.0, fuse="single"),
    tc.TCViT(attention_keep=0.6, proportional_attention=False),
]
_BASELINES = [tc.EViT(fuse=False), tc.ToFu(prune_until=0.0), tc.DiffRate(pruned=0.0)]
# Every fusion that methods share, with scores and matches that their own methods do not give it.
_CROSS = [
    tc.Cross(score="tome", fuse="soft"),
    tc.Cross(score="pitome", match="features", fuse="squeeze"),
    tc.Cross(score="received", match="cosine", fuse="mlerp"),
    tc.Cross(score="uniform", match="distance", fuse="represent"),
    tc.Cross(score="mctf", match="features", fuse="mean"),
    tc.Cross(score="kmedoids", match="graph", fuse="propagate"),
    tc.Cross(score="dpcknn", fuse="class_token"),
    tc.Cross(score="tome", fuse="mean_token"),
    tc.Cross(score="gtp", fuse="drop", proportional_attention=False),
]
REDUCERS_AND_SWITCHES = list(
    dict.fromkeys([kind() for kind in REDUCERS.values()] + _GTP + _TCVIT + _BASELINES + _CROSS)
)
METHODS = [pytest.param(kind(), id=name) for name, kind in REDUCERS.items()]
# The library's own two, which every test of a model compiles; and with them a method that follows an order from block
# to block, and one that fills a width, for tests that could tell them apart. One test compiles every method.
OWN = [param for param in METHODS if param.id in ("gtp", "tcvit")]
WAYS = [param for param in METHODS if param.id in ("gtp", "tcvit", "tome", "ats")]
# For tests that compile a model for each, all others are slow.
_FEW = [param.values[0] for param in WAYS]


def _slow_except(params, fast):
    """The same parameters, those slow whose reducer is not in `fast`."""
    return [
        param if param.values[0] in fast else pytest.param(*param.values, id=param.id, marks=pytest.mark.slow)
        for param in params
    ]


_ALL = [pytest.param(reducer, id=repr(reducer)) for reducer in REDUCERS_AND_SWITCHES]
SWITCHES = _slow_except(_ALL, [param.values[0] for param in METHODS])
COMPILED_SWITCHES = _slow_except(_ALL, _FEW)
COMPILED_METHODS = _slow_except(METHODS, _FEW)
