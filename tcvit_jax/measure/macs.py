"""The ledger of a model: multiply-adds of every block and stage, the dense model's beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tcvit_jax.models import ViT
from tcvit_jax.models.cost import BlockCost, Cost
from tcvit_jax.reducers.base import ReducerMacs

# In the order of computation; the four of the reducer lie between projection and MLP.
STAGES = ("embedding", "qkv", "attention", "projection", "signals", "score", "match", "fuse", "mlp", "head")

Stages: TypeAlias = dict[str, int]


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        name: `"embedding"`, `"prepare"` (what the reducer computes once per image), `"block 0"` and so on, `"head"`.
        tokens: patch tokens that enter and that leave; None where that says nothing.
        stages: multiply-adds by their stage, names out of `STAGES`; what is not there is 0.
        dense: of the same line, all stages, with every token kept.
    """

    name: str
    tokens: tuple[int, int] | None
    stages: Stages
    dense: int

    @property
    def total(self) -> int:
        """All stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Ledger:
    """Multiply-adds of one image; print it for the table.

    Attributes:
        name: of the model, with its reducer.
        cost: of the model as it is.
        dense: of the same model with every token kept.
    """

    name: str
    cost: Cost
    dense: Cost

    @property
    def total(self) -> int:
        """Multiply-adds of one image, the reducer's own included, and what nobody reads, as papers count."""
        return self.cost.total

    @property
    def computed_macs(self) -> int:
        """What the program computes of them."""
        return self.cost.computed_macs

    @property
    def gmacs(self) -> float:
        """`total` in 1e9."""
        return self.cost.total / 1e9

    @property
    def gmacs_dense(self) -> float:
        """1e9 multiply-adds of one image of the dense model."""
        return self.dense.total / 1e9

    @property
    def savings(self) -> float:
        """The share of the dense model's multiply-adds that is gone, between 0 and 1."""
        return 1 - self.cost.total / self.dense.total

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patch tokens at the start and after each block."""
        return self.cost.tokens

    @property
    def lines(self) -> tuple[Line, ...]:
        """Embedding, preparation if there is any, every block, head: they sum to `total`."""
        cost, dense = self.cost, self.dense
        prepare = [Line("prepare", None, _of_work(cost.prepare), 0)] if cost.prepare.total else []
        blocks = [
            Line(f"block {index}", (block.tokens_in, block.tokens_out), _of_block(block), full.total)
            for index, (block, full) in enumerate(zip(cost.blocks, dense.blocks, strict=True))
        ]
        embedding = Line("embedding", None, {"embedding": cost.embed}, dense.embed)
        return (embedding, *prepare, *blocks, Line("head", None, {"head": cost.head}, dense.head))

    @property
    def stages(self) -> Stages:
        """Multiply-adds of every stage over all lines: they sum to `total`."""
        return {stage: sum(line.stages.get(stage, 0) for line in self.lines) for stage in STAGES}

    def summary(self) -> str:
        """Two lines: the tokens' way through the blocks, and the totals."""
        return (
            f"tokens  {' -> '.join(map(str, self.tokens))}\n"
            f"GMACs   {self.gmacs:.4g}, dense {self.gmacs_dense:.4g} ({self.savings:.1%} saved)"
        )

    def __str__(self) -> str:
        # A stage that costs nothing anywhere has no column: those of a reducer in a dense model.
        shown = [stage for stage, macs in self.stages.items() if macs]
        heading = "".join(f"{stage:>11}" for stage in (*shown, "MMACs", "dense"))
        rows = [f"{'':10}{'tokens':>12}{heading}"]
        rows += [_row(line.name, line.tokens, [line.stages.get(stage) for stage in shown], line) for line in self.lines]
        total = Line("total", None, self.stages, self.dense.total)
        rows.append(_row("total", None, [self.stages[stage] for stage in shown], total))
        if self.cost.skipped:
            # Patch tokens of the last block: exact, since nobody reads them, and left out of no paper's figure.
            for name, macs, dense in (
                ("not read", -self.cost.skipped, -self.dense.skipped),
                ("computed", self.cost.computed_macs, self.dense.computed_macs),
            ):
                rows.append(_row(name, None, [None] * len(shown), Line(name, None, {"all": macs}, dense)))
        return "\n".join([self.name, *rows, self.summary()])


def _of_work(reducer_macs: ReducerMacs) -> Stages:
    stages = {
        "signals": reducer_macs.signals,
        "score": reducer_macs.score,
        "match": reducer_macs.match,
        "fuse": reducer_macs.fuse,
    }
    return {stage: macs for stage, macs in stages.items() if macs}


def _of_block(block: BlockCost) -> Stages:
    own = {"qkv": block.qkv, "attention": block.attention, "projection": block.projection, "mlp": block.mlp}
    return own | _of_work(block.reducer_macs)


def _row(name: str, tokens: tuple[int, int] | None, stages: list[int | None], line: Line) -> str:
    way = f"{tokens[0]} -> {tokens[1]}" if tokens else ""
    cells = "".join(" " * 11 if macs is None else f"{macs / 1e6:11.3f}" for macs in (*stages, line.total, line.dense))
    return f"{name:10}{way:>12}{cells}"


def ledger(model: ViT) -> Ledger:
    """Multiply-adds of every block and stage, dense beside condensed; `.total` is that of one image.

    Counted are matrix products (see `models.cost`), the reducer's own among them, which the papers' figures leave out.
    What the last block does not compute, because the head does not read it, has a line below the total: the papers'
    figures contain it.
    """
    return Ledger(f"{model.variant}, reducer {model.reducer or 'none'}", model.cost(), model.cost((0,) * model.depth))


def describe(model: ViT) -> Ledger:
    """The ledger, for `print(tc.describe(model))`: tokens and multiply-adds of every block, dense beside condensed."""
    return ledger(model)
