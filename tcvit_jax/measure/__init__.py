"""What a model costs, how that splits, and what its reducer does to real images."""

from tcvit_jax.measure.diagnosis import Diagnosis, Reduction, diagnose, reductions
from tcvit_jax.measure.macs import Ledger, describe, ledger
from tcvit_jax.measure.oracle import Oracle, oracle

__all__ = ["Diagnosis", "Ledger", "Oracle", "Reduction", "describe", "diagnose", "ledger", "oracle", "reductions"]
