"""The base class of all reducers: a frozen dataclass of hyperparameters that names its three parts."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.errors import as_integer, check_range, invalid, out_of_range
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.parts import BlockContext, FusionInputs, Parts, Removal
from tcvit_jax.tokens import Plan, Tokens


@dataclass(frozen=True)
class ReducerMacs:
    """Reduction overhead: multiply-adds of a reducer for one image in one block.

    Attributes:
        signals: Attention statistics.
        score: The score.
        match: The match.
        fuse: The fusion and the application of its plan.
    """

    signals: int = 0
    score: int = 0
    match: int = 0
    fuse: int = 0

    @property
    def total(self) -> int:
        """Sum of all multiply-adds."""
        return self.signals + self.score + self.match + self.fuse


# The reducers of this package by their short names: the class name in lower case.
BUILT_IN: dict[str, type[Reducer]] = {}


@dataclass(frozen=True, repr=False)
class Reducer(ABC):
    """A token reduction method, defined by its `parts`.

    A concrete subclass registers itself. In a module of this package its name is the class name in lower case; in any
    other module it is `package.module:Class`.

    A block that removes tokens computes attention with the reducer's `signals` and passes both to `reduce`. No other
    code of a model depends on the method.

    Attributes:
        proportional_attention: Whether later blocks add `log(size)` of each token to the attention scores of its key,
            so that a token that represents several patches counts as several.
        attention_keep: Fraction of the entries of every attention map to keep, in (0, 1]; 1 keeps all
            (`ops.attention.sparsify`).
    """

    # The schedule family of the paper, a `family` of `schedule.budget`.
    DEFAULT_SCHEDULE: ClassVar[str] = "constant"
    # Values of fields to try on a slice of the training data, one field after the other.
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # Hint of the error for a reducer that needs a class token on a model without one.
    CLASS_TOKEN_ADVICE: ClassVar[str] = "use tc.GTP() or tc.ToMe()"
    # Whether `parse("all")` includes it; false for reducers that combine parts of other methods.
    IS_METHOD: ClassVar[bool] = True
    # Whether it comes first in `parse("all")`, as the method that benchmarks compare the others with.
    IS_REFERENCE: ClassVar[bool] = False

    proportional_attention: bool = True
    attention_keep: float = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register a concrete class of this package.

        Raises:
            InputError: Another class has the same name.
        """
        super().__init_subclass__(**kwargs)
        if cls.__module__.rpartition(".")[0] != __package__ or _is_abstract(cls):
            return
        name = cls.__name__.lower()
        path, other = _path(cls), BUILT_IN.get(name)
        # Not an error if the path is the same: the module was reloaded, or `dataclass(slots=True)` made a copy.
        if other is not None and _path(other) != path:
            raise invalid(f"reducer {name!r}", f"defined by both {_path(other)} and {path}", "rename one of them")
        BUILT_IN[name] = cls

    def __post_init__(self) -> None:
        """Validate field types and `attention_keep`. Subclasses validate their own fields as well.

        Scalars and arrays of NumPy and JAX become Python numbers and lists, which JSON can encode.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic | np.ndarray | jax.Array):
                value = cast("np.ndarray[Any, Any]", value).tolist()
                object.__setattr__(self, field.name, value)
            _check_type(field.name, value, field.default, allows_list="tuple" in str(field.type))
        check_range("attention_keep", self.attention_keep, 0, 1, excludes_low=True, hint="1.0 keeps all entries")

    def __repr__(self) -> str:
        """Return the call that creates the reducer, with the fields that differ from their defaults."""
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(changed)})"

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """The score, match and fusion of the method."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The statistics that the plan reads, names from `ops.attention.SIGNALS` and `BLOCK_SIGNALS`."""
        parts = self.parts
        names = [*parts.score.signals, *(parts.match.signals if parts.match else ()), *parts.fusion.signals]
        return tuple(dict.fromkeys(names))

    @property
    def removal(self) -> Removal:
        """How tokens are removed (see `Fusion`)."""
        return self.parts.fusion.removal

    @property
    def extra_tokens(self) -> int:
        """Number of tokens that each plan adds, fused from removed tokens alone."""
        return self.parts.fusion.extra_tokens

    @property
    def is_soft(self) -> bool:
        """Whether restoring a removed token takes several tokens. Otherwise its slot names a single one."""
        return self.parts.fusion.is_soft

    @property
    def has_padding(self) -> bool:
        """Whether kept tokens may be padding of size 0, which must be masked."""
        return self.parts.fusion.has_padding

    @property
    def uses_size_weights(self) -> bool:
        """Whether a mean over patch tokens must weight each token by its size."""
        return self.has_padding or (self.removal == "merge" and self.proportional_attention)

    @property
    def needs_class_token(self) -> bool:
        """Whether the plan reads the attention of the class token."""
        return self.parts.score.needs_class_token or self.parts.fusion.needs_class_token

    def changed_inactive_fields(self) -> dict[str, str]:
        """Return the `inactive_fields` whose value differs from the default."""
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: condition
            for name, condition in self.inactive_fields().items()
            if getattr(self, name) != defaults[name]
        }

    def inactive_fields(self) -> Mapping[str, str]:
        """Return the fields that have no effect, given the values of the others.

        Returns:
            A mapping from each field to what it requires, such as `"fuse='soft'"`. Changing such a field changes no
            output.
        """
        if self.removal == "drop":
            # All sizes are 1, and log(1) is 0.
            return {"proportional_attention": "a method that merges or propagates tokens"}
        return {}

    def max_removable(self, patches: int, prefix: int) -> int:
        """Return how many of `patches` patch tokens can be removed in one block, with `prefix` prefix tokens."""
        return self.parts.score.max_removable(patches, prefix)

    def lower_count(self, patches: int, prefix: int, count: int, grid: tuple[int, int]) -> int:
        """Return the largest number of patch tokens, at most `count`, that can be removed in one block.

        Args:
            patches: Number of patch tokens that enter the block.
            prefix: Number of prefix tokens.
            count: Desired number of removed patch tokens.
            grid: `(height, width)` of the grid of the embedded patches.
        """
        return self.parts.score.lower_count(patches, min(count, self.max_removable(patches, prefix)), grid)

    def check(self, patches: int, removed: Sequence[int]) -> None:
        """Check the fields against a model.

        Args:
            patches: Number of patch tokens of the embedded image.
            removed: Number of removed patch tokens of each block.

        Raises:
            InputError: A field does not fit the model or the schedule.
        """
        if self.parts.match:
            self.parts.match.check(patches)
        self.parts.fusion.check(removed)

    def prepare(self, tokens: Tokens, grid: tuple[int, int]) -> Any:
        """Return the state of score and match, computed once per forward pass.

        Args:
            tokens: The embedded tokens.
            grid: `(height, width)` of the patch grid.

        Returns:
            The states of the score and of the match, to be stored in `tokens.state`.
        """
        parts = self.parts
        return parts.score.prepare(tokens, grid), parts.match.prepare(tokens, grid) if parts.match else None

    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Return the plan that keeps `keep` patch tokens.

        Args:
            tokens: Tokens after the attention residual, with the state from `prepare` or `reduce`.
            signals: Statistics of the attention of this block, over all `T` tokens.
            keep: Number of patch tokens to keep, `1 <= keep < N`; static. With `extra_tokens`, `keep + extra_tokens`
                tokens survive.

        Returns:
            The plan.
        """
        parts, (score_state, match_state) = self.parts, tokens.state
        score = parts.score.rank(tokens.with_state(score_state), signals, keep)
        kept, removed = split_by_score(score, keep)
        match = None
        if parts.match:
            match = parts.match.similarity(tokens.with_state(match_state), signals, kept, removed)
            if parts.score.is_bipartite:
                match = jnp.where(jnp.isposinf(take_rows(score, kept))[:, None, :], match, -jnp.inf)
        return parts.fusion.fuse(FusionInputs(tokens.with_state(None), signals, score, kept, removed, match))

    def reduce(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Tokens, Plan]:
        """Return the tokens after the plan of `plan`, with updated state, and the plan."""
        plan = self.plan(tokens, signals, keep)
        parts, (score_state, match_state) = self.parts, tokens.state
        score_state = parts.score.update_state(tokens.with_state(score_state), plan)
        match_state = parts.match.update_state(tokens.with_state(match_state), plan) if parts.match else None
        return plans.apply(plan, tokens).with_state((score_state, match_state)), plan

    def prepare_macs(self, patches: int, width: int) -> ReducerMacs:
        """Return the multiply-adds of `prepare` for one image of `patches` patch tokens."""
        parts = self.parts
        return ReducerMacs(
            score=parts.score.prepare_macs(patches, width),
            match=parts.match.prepare_macs(patches, width) if parts.match else 0,
        )

    def macs(self, context: BlockContext) -> ReducerMacs:
        """Return the multiply-adds of signals, `plan` and its application for one image in one block."""
        parts = self.parts
        # One sum over the attention map of every head. The other statistics of attention are free or negligible:
        # recomputing the class row, on platforms other than TPU, costs a ten-thousandth of a block.
        signals = context.heads * context.tokens**2 * len({"received", "map"} & set(self.signals))
        # The MLP of all tokens. A method that drops tokens does not change the others, whose MLP is not computed again.
        shift_tokens = context.removed if self.removal == "drop" else context.tokens
        signals += shift_tokens * context.mlp * ("mlp_norm" in self.signals)
        return ReducerMacs(
            signals=signals,
            score=parts.score.macs(context),
            match=parts.match.macs(context) if parts.match else 0,
            fuse=parts.fusion.macs(context),
        )


def format_requirement(field: str, *values: object) -> str:
    """Return the condition that `field` has one of `values`, such as `"fuse='soft' or fuse='topm'"`."""
    return " or ".join(f"{field}={value!r}" for value in values)


def check_seed(seed: int) -> None:
    """Check the seed of a random generator.

    Raises:
        InputError: `seed` is not in `[0, 2**32)`. JAX reads only the lower 32 bits, except with `jax_enable_x64`.
    """
    if not 0 <= seed < 2**32:
        raise out_of_range("seed", seed, "in [0, 2**32)")


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _is_abstract(cls: type) -> bool:
    """Return whether `cls` lacks a definition of an abstract method.

    `inspect.isabstract` does not work yet when `__init_subclass__` runs.
    """
    names = set(vars(cls)).union(*(getattr(base, "__abstractmethods__", ()) for base in cls.__bases__))
    return any(getattr(getattr(cls, name, None), "__isabstractmethod__", False) for name in names)


def _check_type(name: str, value: Any, default: Any, allows_list: bool) -> None:
    """Raise `InputError` unless `value` has the type of `default`, or is a sequence if the field allows one."""
    if default is None or (allows_list and isinstance(value, Sequence) and not isinstance(value, str)):
        return
    if isinstance(default, bool):
        is_valid, condition = isinstance(value, bool), "True or False"
    elif isinstance(default, str):
        is_valid, condition = isinstance(value, str), "a string"
    elif isinstance(default, int):
        as_integer(name, value)
        return
    else:
        is_valid, condition = not isinstance(value, bool) and isinstance(value, numbers.Real), "a number"
    if not is_valid:
        raise out_of_range(name, value, condition, f"the default is {default!r}")
