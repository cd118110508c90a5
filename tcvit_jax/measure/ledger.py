"""The ledger of a model: tokens and multiply-adds of every block, the dense model's beside them."""

from __future__ import annotations

from dataclasses import dataclass

from tcvit_jax import reducers
from tcvit_jax.models import ViT
from tcvit_jax.models.cost import Cost


@dataclass(frozen=True)
class Ledger:
    """Costs of one image; print it for the table.

    Attributes:
        name: of the model, with its reducer.
        cost: of the model as it is.
        dense: of the same model with every token kept.
    """

    name: str
    cost: Cost
    dense: Cost

    @property
    def gmacs(self) -> float:
        """1e9 multiply-adds of one image, the reducer's own included, and what nobody reads, as papers count."""
        return self.cost.total / 1e9

    @property
    def gmacs_dense(self) -> float:
        """1e9 multiply-adds of one image of the dense model."""
        return self.dense.total / 1e9

    @property
    def saved(self) -> float:
        """The share of the dense model's multiply-adds that is gone, between 0 and 1."""
        return 1 - self.cost.total / self.dense.total

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patch tokens at the start and after each block."""
        return self.cost.tokens

    def summary(self) -> str:
        """Two lines: the tokens' way through the blocks, and the totals."""
        return (
            f"tokens  {' -> '.join(map(str, self.tokens))}\n"
            f"GMACs   {self.gmacs:.4g}, dense {self.gmacs_dense:.4g} ({self.saved:.1%} saved)"
        )

    def __str__(self) -> str:
        lines = [self.name, f"{'':10}{'tokens':>12}{'MMACs':>10}{'dense':>10}{'reducer':>10}"]
        lines.append(_row("embed", "", self.cost.embed, self.dense.embed, None))
        if self.cost.prepare:
            lines.append(_row("prepare", "", self.cost.prepare, 0, self.cost.prepare))
        for index, (block, dense) in enumerate(zip(self.cost.blocks, self.dense.blocks, strict=True)):
            way = f"{block.tokens_in} -> {block.tokens_out}"
            lines.append(_row(f"block {index}", way, block.total, dense.total, block.reducer))
        lines.append(_row("head", "", self.cost.head, self.dense.head, None))
        lines.append(_row("total", "", self.cost.total, self.dense.total, self.cost.reducer))
        if self.cost.unread:
            # Patch tokens of the last block: exact, since nobody reads them, and left out of no paper's figure.
            lines.append(_row("not read", "", -self.cost.unread, -self.dense.unread, None))
            lines.append(_row("computed", "", self.cost.computed, self.dense.computed, None))
        return "\n".join([*lines, self.summary()])


def _row(label: str, tokens: str, macs: int, dense: int, reducer: int | None) -> str:
    own = "" if reducer is None else f"{reducer / 1e6:10.3f}"
    return f"{label:10}{tokens:>12}{macs / 1e6:10.3f}{dense / 1e6:10.3f}{own}"


def describe(model: ViT) -> Ledger:
    """Tokens and multiply-adds of every block, dense beside condensed; `print(describe(model))` shows the table.

    Counted are matrix products (see `models.cost`). A reducer's own products have a column: the papers' figures
    leave them out. What the last block does not compute, because the head does not read it, has a line below the
    total: the papers' figures contain it.
    """
    method = reducers.to_config(model.reducer)["name"]
    return Ledger(f"{model.variant}, reducer {method}", model.cost(), model.cost((0,) * model.depth))
