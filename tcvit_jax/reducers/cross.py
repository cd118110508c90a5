"""Ablations: combinations of the scores, matches and fusions of different methods.

`Cross(score="tcvit", match="cosine", fuse="soft")` uses the score of TC-ViT and the cosine of keys of ToMe, and splits
each removed token among all kept ones in proportion to the match. Every part has the defaults of its method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tcvit_jax.errors import unknown
from tcvit_jax.reducers.ats import ATS
from tcvit_jax.reducers.base import Reducer, format_requirement
from tcvit_jax.reducers.dpcknn import DPCKNN
from tcvit_jax.reducers.fusions import (
    CLASS_TOKEN,
    DROP,
    HARD,
    LARGEST_MAGNITUDE,
    MEAN_TOKEN,
    REPRESENT,
    SCORE_MEAN,
    SOFT,
    UNWEIGHTED,
    propagate,
)
from tcvit_jax.reducers.gtp import GTP
from tcvit_jax.reducers.kmedoids import KMedoids
from tcvit_jax.reducers.matches import FEATURES, KEYS, NEAREST
from tcvit_jax.reducers.mctf import MCTF
from tcvit_jax.reducers.parts import Fusion, Match, Parts, Score
from tcvit_jax.reducers.pitome import PiToMe
from tcvit_jax.reducers.random import Random
from tcvit_jax.reducers.representationshift import SHIFT
from tcvit_jax.reducers.saliencymerging import SaliencyMerging
from tcvit_jax.reducers.scores import ATTENTION_RECEIVED, CLASS_ATTENTION
from tcvit_jax.reducers.tcvit import TCViT
from tcvit_jax.reducers.tofu import MLERP
from tcvit_jax.reducers.tome import BIPARTITE
from tcvit_jax.reducers.tps import SQUEEZE
from tcvit_jax.reducers.uniform import SPREAD
from tcvit_jax.reducers.wardtome import WARD_MATCH, WARD_SCORE


def _match_of(method: GTP | TCViT) -> Match:
    match = method.parts.match
    assert match is not None
    return match


SCORES: dict[str, Callable[[], Score]] = {
    "gtp": lambda: GTP().parts.score,
    "tcvit": lambda: TCViT().parts.score,
    "cover": lambda: TCViT(affinity="keys", selection="cover", order=1).parts.score,
    "cls": lambda: CLASS_ATTENTION,
    "received": lambda: ATTENTION_RECEIVED,
    "tome": lambda: BIPARTITE,
    "pitome": lambda: PiToMe().parts.score,
    "mctf": lambda: MCTF().parts.score,
    "dpcknn": lambda: DPCKNN().parts.score,
    "kmedoids": lambda: KMedoids().parts.score,
    "ats": lambda: ATS().parts.score,
    "random": lambda: Random().parts.score,
    "uniform": lambda: SPREAD,
    "ward": lambda: WARD_SCORE,
    "shift": lambda: SHIFT,
    # Both terms. Class attention alone has the order of `cls`.
    "saliency": lambda: SaliencyMerging(alpha=0.5).parts.score,
}
MATCHES: dict[str, Callable[[], Match]] = {
    "walk": lambda: _match_of(TCViT()),
    "graph": lambda: _match_of(GTP()),
    "cosine": lambda: KEYS,
    "features": lambda: FEATURES,
    "distance": lambda: NEAREST,
    "ward": lambda: WARD_MATCH,
}
FUSIONS: dict[str, Fusion] = {
    "hard": HARD,
    "soft": SOFT,
    "mean": UNWEIGHTED,
    "score_mean": SCORE_MEAN,
    "magnitude": LARGEST_MAGNITUDE,
    "squeeze": SQUEEZE,
    "mlerp": MLERP,
    "represent": REPRESENT,
    "propagate": propagate(GTP.alpha),
    "class_token": CLASS_TOKEN,
    "mean_token": MEAN_TOKEN,
    "drop": DROP,
}


@dataclass(frozen=True, repr=False)
class Cross(Reducer):
    """A combination of the score, match and fusion of different methods.

    Attributes:
        score: The score: `"gtp"`, `"tcvit"`, `"cover"` (`TCViT(affinity="keys", selection="cover", order=1)`),
            `"cls"` (class attention, as in EViT, Top-K, TPS and DiffRate), `"received"` (received attention),
            `"tome"`, `"pitome"`, `"mctf"`, `"dpcknn"`, `"kmedoids"`, `"ats"`, `"random"`, `"uniform"`, `"ward"`
            (Ward-ToMe), `"shift"` (representation shift) or `"saliency"` (saliency-driven merging with `alpha=0.5`).
        match: The similarity of removed and kept tokens: `"walk"` (TC-ViT), `"graph"` (GTP), `"cosine"` (cosine of
            keys, as in ToMe), `"features"` (cosine of features, as in TPS and DiffRate), `"distance"` (Euclidean
            distance of features, as in clustering) or `"ward"` (`1 / (1 + cost)` with the cost of Ward-ToMe).
        fuse: The fusion of removed tokens: `"hard"`, into the best match, weighted by size (TC-ViT, ToMe); `"soft"`,
            into all kept tokens in proportion to the match; `"mean"`, into the best match by the plain mean
            (clustering); `"score_mean"`, by the mean weighted by the score (saliency-driven merging);
            `"magnitude"`, by the value of largest magnitude in each channel (CubistMerge); `"squeeze"` (TPS);
            `"mlerp"` (ToFu); `"represent"`, the best match represents it unchanged (medoids); `"propagate"` (GTP);
            `"class_token"`, one extra token weighted by class attention (EViT); `"mean_token"`, one extra token, the
            mean; or `"drop"`.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    IS_METHOD: ClassVar[bool] = False
    CLASS_TOKEN_ADVICE: ClassVar[str] = "set score='gtp' and fuse='hard', for example"

    score: str = "tcvit"
    match: str = "walk"
    fuse: str = "hard"

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        for name, options in (("score", SCORES), ("match", MATCHES), ("fuse", FUSIONS)):
            if getattr(self, name) not in options:
                raise unknown(name, getattr(self, name), options)

    @property
    def parts(self) -> Parts:
        """The parts by name; no match if the fusion does not need one."""
        fusion = FUSIONS[self.fuse]
        return Parts(SCORES[self.score](), MATCHES[self.match]() if fusion.needs_match else None, fusion)

    def inactive_fields(self) -> Mapping[str, str]:
        """Return the inactive fields: `match`, if the fusion does not need a match."""
        inactive = dict(super().inactive_fields())
        if not FUSIONS[self.fuse].needs_match:
            options = (name for name, fusion in FUSIONS.items() if fusion.needs_match)
            inactive["match"] = format_requirement("fuse", *options)
        return inactive
