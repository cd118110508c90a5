"""What every reducer is: a frozen dataclass of hyper-parameters with pure functions that only *plan*."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from tcvit_jax.errors import InputError
from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Plan, Tokens

Fate: TypeAlias = Literal["dropped", "propagated", "merged"]


@dataclass(frozen=True, repr=False)
class Reducer(ABC):
    """One method of token reduction.

    A block that removes tokens computes attention with the reducer's `signals`, asks for a `plan` between attention
    and MLP, and hands it to `ops.plans.apply`. Nothing else in a model knows which method it runs.

    Attributes:
        proportional_attention: whether later blocks add `log(size)` of a token to every score of its key, so that a
            token which stands for several counts as several.
        attention_keep: the part of its entries that every attention map keeps, 1 for all
            (`ops.attention.sparsified`).
    """

    proportional_attention: bool = True
    attention_keep: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that no map has; methods check their own fields too."""
        if not 0 < self.attention_keep <= 1:
            raise InputError(f"attention_keep={self.attention_keep} is not in (0, 1]: 1.0 keeps every entry")

    def __repr__(self) -> str:
        """The fields that differ from the method's defaults."""
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(changed)})"

    @property
    @abstractmethod
    def signals(self) -> tuple[str, ...]:
        """Which statistics of attention the plan reads, names out of `ops.attention.SIGNALS`."""

    @property
    @abstractmethod
    def fate(self) -> Fate:
        """What becomes of a removed token.

        `"dropped"`: it leaves nothing behind. `"propagated"`: parts of it are added to others, more or less than the
        whole. `"merged"`: all of its size passes to tokens that become a mean of what they stand for.
        """

    @property
    def extra(self) -> int:
        """How many tokens each plan adds, fused of removed ones alone."""
        return 0

    @property
    def shares(self) -> bool:
        """Whether plans split the whole of a removed token among several, so that it takes them all to restore it.

        Otherwise it is restored from its slot: the token that got all of it, or the most.
        """
        return False

    @property
    def needs_class_token(self) -> str:
        """If the plan reads the class token's attention: which field does, and what to use without one; else empty."""
        return ""

    def check(self, patches: int) -> None:
        """Raise `InputError` for a value that does not fit a model of that many patches."""
        return None

    def prepare(self, tokens: Tokens, grid: tuple[int, int]) -> Any:
        """What the method computes once per image, from the embedded tokens on their `(height, width)` grid."""
        return None

    @abstractmethod
    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Which `keep` patch tokens stay, and with what weight the others enter them.

        Args:
            tokens: after the attention residual; `tokens.state` is what `prepare` returned.
            signals: of the attention just computed, over all `T` tokens.
            keep: static, `1 <= keep < N`; with `extra` tokens behind them, `keep + extra` survive.
        """

    def prepare_macs(self, patches: int, width: int) -> int:
        """Multiply-adds of `prepare` for one image of `patches` tokens."""
        return 0

    @abstractmethod
    def plan_macs(self, patches: int, keep: int, prefix: int, heads: int) -> int:
        """Multiply-adds of the signals and of `plan` for one image in one block; `apply` is counted apart."""
