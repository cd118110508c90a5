"""The candidates of a search: reducers with a schedule family that meet a budget."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tcvit_jax import models, presets, reducers
from tcvit_jax.errors import InputError, requires, unknown
from tcvit_jax.models import ViT
from tcvit_jax.reducers import Reducer
from tcvit_jax.reducers.cross import FUSIONS, MATCHES, SCORES, Cross
from tcvit_jax.schedule import SCHEDULE_FAMILIES, budget

ALL = "all"
# Why combinations are left out.
NO_MATCH = "the fusion reads no match"
NO_FIELD = "a field has no effect"
CONFLICT = "a field does not fit the others"
BIPARTITE = "a bipartite score requires a fusion that reads the match"
CLASS_TOKEN = "the model has no class token"
BUDGET = "the method does not fit the model or the budget"
SAME = "the same program as another candidate"
# What defines the program of a reducer together with its parts, unless a subclass replaces it.
_PROGRAM = ("prepare", "plan", "reduce", "signals", "removal", "extra_tokens", "is_soft", "uses_size_weights")


@dataclass(frozen=True)
class Candidate:
    """A reducer with a schedule family.

    Attributes:
        reducer: The reducer.
        family: The schedule family, one of `schedule.SCHEDULE_FAMILIES`.
        model: The model with the reducer, whose cost is within the budget.
    """

    reducer: Reducer
    family: str
    model: ViT

    @property
    def name(self) -> str:
        """The name in tables and in the names of measurements."""
        return f"{self.reducer!r}, {self.family}"

    @property
    def macs(self) -> int:
        """The multiply-adds of one image."""
        return self.model.cost().total

    def to_config(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"reducer": reducers.to_config(self.reducer), "schedule_family": self.family}


@dataclass(frozen=True)
class Space:
    """The reducers and schedule families of a search.

    Attributes:
        scores: Names from `cross.SCORES`.
        matches: Names from `cross.MATCHES`.
        fusions: Names from `cross.FUSIONS`.
        families: Names from `schedule.SCHEDULE_FAMILIES`.
        methods: Reducers that are candidates as they are, and with each value of their `SEARCH_SPACE` in turn.
    """

    scores: tuple[str, ...]
    matches: tuple[str, ...]
    fusions: tuple[str, ...]
    families: tuple[str, ...]
    methods: tuple[Reducer, ...]

    @classmethod
    def parse(cls, scores: str, matches: str, fusions: str, families: str, methods: str) -> Space:
        """Return the space of flags: comma-separated names, `all`, or an empty string for none.

        Raises:
            InputError: A name is unknown, or no schedule family is left.
        """
        names = [
            _names(kind, text, table)
            for kind, text, table in (
                ("score", scores, SCORES), ("match", matches, MATCHES), ("fusion", fusions, FUSIONS),
                ("schedule family", families, SCHEDULE_FAMILIES),
            )
        ]  # fmt: skip
        if not names[3]:
            raise requires("a search", "schedule families", "set --families constant,keep_rate")
        return cls(*names, methods=tuple(dict.fromkeys(method for method, _ in presets.parse(methods))))

    def candidates(self, dense: ViT, gmacs: float) -> tuple[tuple[Candidate, ...], dict[str, int]]:
        """Return the candidates in a fixed order, and the number of combinations that are left out, by reason.

        Args:
            dense: The dense model.
            gmacs: The budget in units of 1e9 multiply-adds.

        Raises:
            InputError: No candidate is left.
        """
        left_out: Counter[str] = Counter()
        candidates: list[Candidate] = []
        programs: set[Any] = set()
        for reducer, reason in (*self._variants(), *self._combinations()):
            if not reason and reducer.needs_class_token and not dense.class_token:
                reason = CLASS_TOKEN
            for family in self.families:
                candidate = None if reason else _candidate(dense, reducer, family, gmacs)
                if candidate is None:
                    left_out[reason or BUDGET] += 1
                elif programs & (keys := _programs(candidate)):
                    left_out[SAME] += 1
                else:
                    candidates.append(candidate)
                    programs |= keys
        if not candidates:
            reasons = "; ".join(f"{count} times {reason}" for reason, count in left_out.items())
            raise requires("a search", "candidates", reasons or "set --methods or --scores, --matches and --fusions")
        return tuple(candidates), dict(left_out)

    def _variants(self) -> Iterator[tuple[Reducer, str]]:
        """Yield the methods with each value of their search space, and why one is left out."""
        for method in self.methods:
            yield method, ""
            for name, values in method.SEARCH_SPACE.items():
                for value in values:
                    try:
                        variant = replace(method, **{name: value})
                    except InputError:
                        yield method, CONFLICT
                        continue
                    yield variant, NO_FIELD if name in variant.changed_inactive_fields() else ""

    def _combinations(self) -> Iterator[tuple[Reducer, str]]:
        """Yield the combinations of parts, and why one is left out."""
        for score, fuse in itertools.product(self.scores, self.fusions):
            if FUSIONS[fuse].needs_match:
                yield from ((Cross(score=score, match=match, fuse=fuse), "") for match in self.matches)
            else:
                reason = BIPARTITE if SCORES[score]().is_bipartite else ""
                without_match = Cross(score=score, fuse=fuse)
                yield without_match, reason
                yield from ((without_match, NO_MATCH) for _ in self.matches[1:])

    def to_config(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = {name: list(getattr(self, name)) for name in ("scores", "matches", "fusions", "families")}
        return {**names, "methods": [reducers.to_config(method) for method in self.methods]}


def _names(kind: str, text: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(table) if text == ALL else tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in table:
            raise unknown(kind, name, (*table, ALL))
    return tuple(dict.fromkeys(names))


def _candidate(dense: ViT, reducer: Reducer, family: str, gmacs: float) -> Candidate | None:
    try:
        return Candidate(reducer, family, models.condense(dense, reducer, budget(gmacs, family)))
    except InputError:
        return None


def _programs(candidate: Candidate) -> set[Any]:
    """Return values that candidates share only if they compute the same: the reducer, and its parts."""
    reducer, removed = candidate.reducer, candidate.model.removed
    keys: set[Any] = {(reducer, removed)}
    if all(getattr(type(reducer), name) is getattr(Reducer, name) for name in _PROGRAM):
        uses_sizes = reducer.proportional_attention and reducer.removal != "drop"
        keys.add((reducer.parts, uses_sizes, reducer.attention_keep, removed))
    return keys


def describe_left_out(left_out: Mapping[str, int]) -> Sequence[str]:
    """Return one line for each reason why combinations are left out."""
    return [f"{count:,} combinations left out: {reason}" for reason, count in left_out.items()]
