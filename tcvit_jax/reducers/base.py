"""What every reducer is: a frozen dataclass of hyper-parameters that names three parts, and only *plans*."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax.numpy as jnp

from tcvit_jax.errors import InputError, as_integer
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.parts import BlockContext, FusionInputs, Parts, Removal
from tcvit_jax.tokens import Plan, Tokens


@dataclass(frozen=True)
class ReducerMacs:
    """Multiply-adds of a method for one image in one block: from attention's signals to the tokens that are left."""

    signals: int = 0
    score: int = 0
    match: int = 0
    fuse: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.signals + self.score + self.match + self.fuse


# Every reducer of this package by its short name, the class name in lower case.
BUILT_IN: dict[str, type[Reducer]] = {}


@dataclass(frozen=True, repr=False)
class Reducer(ABC):
    """One method of token reduction: its `parts`, and what follows of them.

    Defining a concrete subclass is all it takes. One in a module of this package is known by its class name in lower
    case; one in any other module is named `package.module:Class`.

    A block that removes tokens computes attention with the reducer's `signals` and hands both to `reduce`. Nothing else
    in a model knows which method it runs.

    Attributes:
        proportional_attention: whether later blocks add `log(size)` of a token to every score of its key, so that a
            token which stands for several counts as several.
        attention_keep: the part of its entries that every attention map keeps, 1 for all
            (`ops.attention.sparsify`).
    """

    # How its paper spreads removals over the blocks: a shape of `schedule.budget`.
    DEFAULT_SCHEDULE: ClassVar[str] = "constant"
    # Which values of which fields are worth trying, one field after the other, where a slice of the training data is
    # there to choose by.
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # What to use on a model without a class token, where the reducer needs one.
    CLASS_TOKEN_ADVICE: ClassVar[str] = "use tc.GTP() or tc.ToMe()"
    # Whether it is a method of its own, one of `all`; otherwise it combines parts of others.
    IS_METHOD: ClassVar[bool] = True
    # Whether it is the first of `all`, with which a benchmark compares the others.
    IS_REFERENCE: ClassVar[bool] = False

    proportional_attention: bool = True
    attention_keep: float = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register a concrete class of this package.

        Raises:
            InputError: another class has the same name.
        """
        super().__init_subclass__(**kwargs)
        if cls.__module__.rpartition(".")[0] != __package__ or _is_abstract(cls):
            return
        name = cls.__name__.lower()
        path, other = _path(cls), BUILT_IN.get(name)
        # The same path again is the same class: a reloaded module, or the copy that a dataclass with slots is.
        if other is not None and _path(other) != path:
            raise InputError(f"reducer {name!r}: {_path(other)} and {path} cannot both have this name; rename one")
        BUILT_IN[name] = cls

    def __post_init__(self) -> None:
        """Refuse values of another kind, and those that no map has; methods check their own fields too."""
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), field.default, listed="tuple" in str(field.type))
        if not 0 < self.attention_keep <= 1:
            raise InputError(f"attention_keep={self.attention_keep} is not in (0, 1]: 1.0 keeps every entry")

    def __repr__(self) -> str:
        """The fields that differ from the method's defaults."""
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(changed)})"

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """Score, match and fusion."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Which statistics of attention the plan reads, names out of `ops.attention.SIGNALS`."""
        parts = self.parts
        read = [*parts.score.signals, *(parts.match.signals if parts.match else ()), *parts.fusion.signals]
        return tuple(dict.fromkeys(read))

    @property
    def removal(self) -> Removal:
        """What becomes of a removed token (see `Fusion`)."""
        return self.parts.fusion.removal

    @property
    def extra_tokens(self) -> int:
        """How many tokens each plan adds, fused of removed ones alone."""
        return self.parts.fusion.extra_tokens

    @property
    def is_soft(self) -> bool:
        """Whether it takes several tokens to restore a removed one; otherwise its slot says which."""
        return self.parts.fusion.is_soft

    @property
    def has_padding(self) -> bool:
        """Whether tokens of size 0 fill a fixed width: nobody may read them."""
        return self.parts.fusion.has_padding

    @property
    def uses_size_weights(self) -> bool:
        """Whether a mean over patch tokens has to count each as often as the patches that it stands for."""
        return self.has_padding or (self.removal == "merge" and self.proportional_attention)

    @property
    def needs_class_token(self) -> bool:
        """Whether the plan reads the attention of the class token."""
        return self.parts.score.needs_class_token or self.parts.fusion.needs_class_token

    def set_inactive_fields(self) -> dict[str, str]:
        """Return the `inactive_fields` that are set, to another value than the default."""
        defaults = {each.name: each.default for each in fields(self)}
        return {name: words for name, words in self.inactive_fields().items() if getattr(self, name) != defaults[name]}

    def inactive_fields(self) -> Mapping[str, str]:
        """Return the fields that have no effect given the others, each with what it needs, such as `"fuse='soft'"`.

        No change of such a field changes any output.
        """
        if self.removal == "drop":
            return {"proportional_attention": "a method that merges or propagates tokens: all sizes are 1"}
        return {}

    def max_removable(self, patches: int, prefix: int) -> int:
        """How many of so many patch tokens, behind so many protected ones, can leave in one block."""
        return self.parts.score.max_removable(patches, prefix)

    def check(self, patches: int, removed: Sequence[int]) -> None:
        """Raise `InputError` for a value that fits no model of so many patches, of which so many leave each block."""
        if self.parts.match:
            self.parts.match.check(patches)
        self.parts.fusion.check(removed)

    def prepare(self, tokens: Tokens, grid: tuple[int, int]) -> Any:
        """What the parts compute once per image, from the embedded tokens on their `(height, width)` grid."""
        parts = self.parts
        return parts.score.prepare(tokens, grid), parts.match.prepare(tokens, grid) if parts.match else None

    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Which `keep` patch tokens stay, and with what weight the others enter them.

        Args:
            tokens: after the attention residual; `tokens.state` is what `prepare` or `reduce` left there.
            signals: of the attention just computed, over all `T` tokens.
            keep: static, `1 <= keep < N`; with `extra` tokens behind them, `keep + extra` survive.
        """
        parts, (of_score, of_match) = self.parts, tokens.state
        score = parts.score.rank(tokens.with_state(of_score), signals, keep)
        kept, removed = split_by_score(score, keep)
        match = None
        if parts.match:
            match = parts.match.similarity(tokens.with_state(of_match), signals, kept, removed)
            if parts.score.is_bipartite:
                match = jnp.where(jnp.isposinf(take_rows(score, kept))[:, None, :], match, -jnp.inf)
        return parts.fusion.fuse(FusionInputs(tokens.with_state(None), signals, score, kept, removed, match))

    def reduce(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Tokens, Plan]:
        """The tokens that `plan` leaves, and the plan."""
        plan = self.plan(tokens, signals, keep)
        parts, (of_score, of_match) = self.parts, tokens.state
        of_score = parts.score.update_state(tokens.with_state(of_score), plan)
        of_match = parts.match.update_state(tokens.with_state(of_match), plan) if parts.match else None
        return plans.apply(plan, tokens).with_state((of_score, of_match)), plan

    def prepare_macs(self, patches: int, width: int) -> ReducerMacs:
        """Multiply-adds of `prepare` for one image of `patches` tokens."""
        parts = self.parts
        return ReducerMacs(
            score=parts.score.prepare_macs(patches, width),
            match=parts.match.prepare_macs(patches, width) if parts.match else 0,
        )

    def macs(self, context: BlockContext) -> ReducerMacs:
        """Multiply-adds of the signals, of `plan` and of its application for one image in one block."""
        parts = self.parts
        return ReducerMacs(
            # Sums over the map of every head. The other statistics are read off, or take next to nothing: the class
            # row anew, on other platforms than a TPU, is a ten-thousandth of a block.
            signals=context.heads * context.tokens**2 * len({"received", "map"} & set(self.signals)),
            score=parts.score.macs(context),
            match=parts.match.macs(context) if parts.match else 0,
            fuse=parts.fusion.macs(context),
        )


def requirement(field: str, *values: object) -> str:
    """Return what a field needs, as text: `"fuse='soft' or fuse='topm'"`."""
    return " or ".join(f"{field}={value!r}" for value in values)


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _is_abstract(cls: type) -> bool:
    """Return whether `cls` lacks a definition of an abstract method.

    `inspect.isabstract` cannot tell yet when `__init_subclass__` runs.
    """
    names = set(vars(cls)).union(*(getattr(base, "__abstractmethods__", ()) for base in cls.__bases__))
    return any(getattr(getattr(cls, name, None), "__isabstractmethod__", False) for name in names)


def _check_kind(name: str, value: Any, default: Any, listed: bool) -> None:
    """Raise unless `value` is of its default's kind, or a list where the field takes one."""
    if default is None or (listed and isinstance(value, Sequence) and not isinstance(value, str)):
        return
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "True or False"
    elif isinstance(default, str):
        fits, kind = isinstance(value, str), f"a name such as {default!r}"
    elif isinstance(default, int):
        as_integer(name, value)
        return
    else:
        fits, kind = not isinstance(value, bool) and isinstance(value, numbers.Real), f"a number such as {default}"
    if not fits:
        raise InputError(f"{name} takes {kind}, and was given {value!r}")
