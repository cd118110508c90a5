"""What a model costs, how that splits, and what its reducer does to real images."""

from tcvit_jax.measure.diagnosis import Diagnosis, Reduction, diagnose, reductions
from tcvit_jax.measure.ledger import Ledger, describe

__all__ = ["Diagnosis", "Ledger", "Reduction", "describe", "diagnose", "reductions"]
