"""What a model costs, and how that splits."""

from tcvit_jax.measure.ledger import Ledger, describe

__all__ = ["Ledger", "describe"]
