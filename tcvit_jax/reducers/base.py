"""What every reducer is: a frozen dataclass of hyper-parameters with pure functions that only *plan*."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Plan, Tokens


@dataclass(frozen=True)
class Reducer(ABC):
    """One method of token reduction.

    A block that removes tokens computes attention with the reducer's `signals`, asks for a `plan` between attention
    and MLP, and hands it to `ops.plans.apply`. Nothing else in a model knows which method it runs.

    Attributes:
        signals: which statistics of the attention map the plan reads, names out of `ops.attention.SIGNALS`.
        proportional_attention: whether later blocks add `log(size)` of a token to every score of its key, so that a
            token which stands for several counts as several.
    """

    signals: ClassVar[tuple[str, ...]] = ()
    proportional_attention: bool = True

    @property
    def needs_class_token(self) -> bool:
        """Whether the plan reads the class token's attention, row 0 of the map."""
        return False

    def prepare(self, tokens: Tokens, grid: tuple[int, int]) -> Any:
        """What the method computes once per image, from the embedded tokens on their `(height, width)` grid."""
        return None

    @abstractmethod
    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Which `keep` patch tokens stay, and with what weight the others enter them.

        Args:
            tokens: after the attention residual; `tokens.state` is what `prepare` returned.
            signals: of the attention just computed, over all `T` tokens.
            keep: static, `1 <= keep < N`.
        """

    def prepare_macs(self, patches: int, width: int) -> int:
        """Multiply-adds of `prepare` for one image of `patches` tokens."""
        return 0

    @abstractmethod
    def plan_macs(self, patches: int, keep: int, prefix: int, heads: int) -> int:
        """Multiply-adds of the signals and of `plan` for one image in one block; `apply` is counted apart."""
