"""Every reducer with each of its options set once: the parameters of tests of all reducers.

A new reducer is included with its defaults automatically. Add its options here.
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
    *(tc.TCViT(**{name: value}) for name, values in OPTIONS.items() for value in values if value != "meeting"),
    *(tc.TCViT(order=order, match_order=match_order) for order, match_order in ((1, 1), (3, 1), (1, 8))),
    *(tc.TCViT(walk=walk, order=4, gamma=0.7) for walk in ("cumulative", "katz", "lazy")),
    *(tc.TCViT(fuse=fuse, temperature=0.3, top_m=2, grad_through_soft=True) for fuse in ("soft", "topm")),
    tc.TCViT(match_norm="lift", direction="both", fuse="soft"),
    tc.TCViT(graph="patch", self_loops=False, renormalize=True),
    *(tc.TCViT(affinity=affinity, selection="cover", order=1) for affinity in ("attention", "symmetric", "keys")),
    tc.TCViT(affinity="meeting", selection="cover", order=1, balance=0.0),
    tc.TCViT(affinity="features", affinity_temperature=0.3, match_order=1, host_share=0.6),
    tc.TCViT(affinity="keys", selection="cover", order=2, walk="lazy", dominance="cls_lift", balance=0.25),
    tc.TCViT(affinity="keys", selection="cover", order=1, balance=0.0, fuse="drop"),
    tc.TCViT(balance=0.0, fuse="drop"),
    tc.TCViT(dominance="gap", walk="lazy"),
    tc.TCViT(balance=1.0, fuse="single"),
    tc.TCViT(attention_keep=0.6, proportional_attention=False),
]
_BASELINES = [
    tc.EViT(fuse=False), tc.ToFu(prune_until=0.0), tc.DiffRate(pruned=0.0), tc.SaliencyMerging(alpha=0.0),
    tc.SaliencyMerging(alpha=0.5), tc.RepresentationShift(fuse="hard"),
    tc.CubistMerge(metric="keys"),
]  # fmt: skip
# Every shared fusion, with scores and matches of other methods.
_CROSS = [
    tc.Cross(score="tome", fuse="soft"),
    tc.Cross(score="pitome", match="features", fuse="squeeze"),
    tc.Cross(score="received", match="cosine", fuse="mlerp"),
    tc.Cross(score="uniform", match="distance", fuse="represent"),
    tc.Cross(score="mctf", match="features", fuse="mean"),
    tc.Cross(score="kmedoids", match="graph", fuse="propagate"),
    tc.Cross(score="dpcknn", fuse="class_token"),
    tc.Cross(score="tome", fuse="mean_token"),
    tc.Cross(score="ward", match="ward", fuse="represent"),
    tc.Cross(score="shift", match="cosine", fuse="hard"),
    tc.Cross(score="cover", match="features", fuse="mean"),
    tc.Cross(score="saliency", match="features", fuse="score_mean"),
    tc.Cross(score="gtp", match="cosine", fuse="magnitude"),
    tc.Cross(score="gtp", fuse="drop", proportional_attention=False),
]
REDUCERS_AND_SWITCHES = list(
    dict.fromkeys([kind() for kind in REDUCERS.values()] + _GTP + _TCVIT + _BASELINES + _CROSS)
)
METHODS = [pytest.param(kind(), id=name) for name, kind in REDUCERS.items()]
# Every test of a model compiles MAIN_METHODS. REPRESENTATIVE_METHODS adds a method that updates its state in every
# block (ToMe) and one with padding (ATS), for tests that depend on it. A single test compiles every method.
MAIN_METHODS = [param for param in METHODS if param.id in ("gtp", "tcvit")]
REPRESENTATIVE_METHODS = [param for param in METHODS if param.id in ("gtp", "tcvit", "tome", "ats")]
# In tests that compile a model for each reducer, all others are marked slow.
_FAST = [param.values[0] for param in REPRESENTATIVE_METHODS]


def _slow_except(params, fast):
    """Return the parameters, marked slow unless their reducer is in `fast`."""
    return [
        param if param.values[0] in fast else pytest.param(*param.values, id=param.id, marks=pytest.mark.slow)
        for param in params
    ]


_ALL = [pytest.param(reducer, id=repr(reducer)) for reducer in REDUCERS_AND_SWITCHES]
SWITCHES = _slow_except(_ALL, [param.values[0] for param in METHODS])
COMPILED_SWITCHES = _slow_except(_ALL, _FAST)
COMPILED_METHODS = _slow_except(METHODS, _FAST)
