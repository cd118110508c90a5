"""The ledger of a model: multiply-adds of each block and stage, compared with those of the dense model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tcvit_jax.models import ViT
from tcvit_jax.models.cost import BlockCost, Cost
from tcvit_jax.models.create import check_model
from tcvit_jax.reducers.base import ReducerMacs

# In the order of computation; the four stages of the reducer are between projection and MLP.
STAGES = ("embedding", "qkv", "attention", "projection", "signals", "score", "match", "fuse", "mlp", "head")

Stages: TypeAlias = dict[str, int]


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        name: `"embedding"`, `"prepare"` (computed by the reducer once per image), `"block 0"` and so on, or `"head"`.
        tokens: The number of patch tokens before and after; None if it does not apply.
        stages: Multiply-adds by stage, with names from `STAGES`; absent stages are 0.
        dense: Multiply-adds of the same line of the dense model, all stages.
    """

    name: str
    tokens: tuple[int, int] | None
    stages: Stages
    dense: int

    @property
    def total(self) -> int:
        """Multiply-adds of all stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Ledger:
    """Multiply-adds of one image; `str` formats them as a table.

    Attributes:
        name: The model and its reducer.
        cost: The cost of the model.
        dense: The cost of the same model without token reduction.
    """

    name: str
    cost: Cost
    dense: Cost

    @property
    def total(self) -> int:
        """Multiply-adds of one image, with those of the reducer and, as in papers, skipped ones of the last block."""
        return self.cost.total

    @property
    def computed_macs(self) -> int:
        """Multiply-adds that are computed: `total` without those of patch tokens that the last block skips."""
        return self.cost.computed_macs

    @property
    def gmacs(self) -> float:
        """`total` in units of 1e9."""
        return self.cost.total / 1e9

    @property
    def gmacs_dense(self) -> float:
        """Multiply-adds of one image of the dense model in units of 1e9."""
        return self.dense.total / 1e9

    @property
    def savings(self) -> float:
        """The fraction of the multiply-adds of the dense model that is saved."""
        return 1 - self.cost.total / self.dense.total

    @property
    def tokens(self) -> tuple[int, ...]:
        """The number of patch tokens at the start and after each block."""
        return self.cost.tokens

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of embedding, preparation (if any), all blocks and head, which sum to `total`."""
        cost, dense = self.cost, self.dense
        prepare = [Line("prepare", None, _reducer_stages(cost.prepare), 0)] if cost.prepare.total else []
        blocks = [
            Line(f"block {index}", (block.tokens_in, block.tokens_out), _block_stages(block), dense_block.total)
            for index, (block, dense_block) in enumerate(zip(cost.blocks, dense.blocks, strict=True))
        ]
        embedding = Line("embedding", None, {"embedding": cost.embed}, dense.embed)
        return (embedding, *prepare, *blocks, Line("head", None, {"head": cost.head}, dense.head))

    @property
    def stages(self) -> Stages:
        """Multiply-adds of each stage over all lines, which sum to `total`."""
        return {stage: sum(line.stages.get(stage, 0) for line in self.lines) for stage in STAGES}

    def summary(self) -> str:
        """Return two lines: the number of tokens after each block, and the totals."""
        return (
            f"tokens  {' -> '.join(map(str, self.tokens))}\n"
            f"GMACs   {self.gmacs:.4g}, dense {self.gmacs_dense:.4g} ({self.savings:.1%} saved)"
        )

    def __str__(self) -> str:
        # Stages without cost, such as those of a reducer in a dense model, have no column.
        columns = [stage for stage, macs in self.stages.items() if macs]
        heading = "".join(f"{stage:>11}" for stage in (*columns, "MMACs", "dense"))
        rows = [f"{'':10}{'tokens':>12}{heading}"]
        rows += [
            _row(line.name, line.tokens, [line.stages.get(stage) for stage in columns], line) for line in self.lines
        ]
        total = Line("total", None, self.stages, self.dense.total)
        rows.append(_row("total", None, [self.stages[stage] for stage in columns], total))
        if self.cost.skipped:
            # Patch tokens of the last block that the head does not read; published MACs include them.
            for name, macs, dense in (
                ("skipped", -self.cost.skipped, -self.dense.skipped),
                ("computed", self.cost.computed_macs, self.dense.computed_macs),
            ):
                rows.append(_row(name, None, [None] * len(columns), Line(name, None, {"all": macs}, dense)))
        return "\n".join([self.name, *rows, self.summary()])


def _reducer_stages(reducer_macs: ReducerMacs) -> Stages:
    stages = {
        "signals": reducer_macs.signals,
        "score": reducer_macs.score,
        "match": reducer_macs.match,
        "fuse": reducer_macs.fuse,
    }
    return {stage: macs for stage, macs in stages.items() if macs}


def _block_stages(block: BlockCost) -> Stages:
    stages = {"qkv": block.qkv, "attention": block.attention, "projection": block.projection, "mlp": block.mlp}
    return stages | _reducer_stages(block.reducer_macs)


def _row(name: str, tokens: tuple[int, int] | None, stages: list[int | None], line: Line) -> str:
    counts = f"{tokens[0]} -> {tokens[1]}" if tokens else ""
    cells = "".join(" " * 11 if macs is None else f"{macs / 1e6:11.3f}" for macs in (*stages, line.total, line.dense))
    return f"{name:10}{counts:>12}{cells}"


def ledger(model: ViT) -> Ledger:
    """Count the multiply-adds of one image in each block and stage, for the model and for the dense model.

    The count covers matrix products (see `models.cost`), including those of the reducer, which published MACs omit.
    Published MACs include the patch tokens of the last block even if the head does not read them. The model skips them,
    and the table has a line for them below the total.

    Args:
        model: The model, with or without a reducer.

    Returns:
        The ledger.

    Raises:
        InputError: `model` is not a model of `create_model`.
    """
    check_model(model)
    return Ledger(f"{model.variant}, reducer {model.reducer or 'none'}", model.cost(), model.cost((0,) * model.depth))


def describe(model: ViT) -> Ledger:
    """Return the ledger of a model: `print(tc.describe(model))` shows tokens and multiply-adds of each block."""
    return ledger(model)
