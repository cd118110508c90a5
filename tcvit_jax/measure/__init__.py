"""Multiply-adds of models, diagnosis of reducers on images, and the oracle slice."""

from tcvit_jax.measure.diagnosis import Diagnosis, Reduction, diagnose, reductions
from tcvit_jax.measure.macs import Ledger, describe, ledger
from tcvit_jax.measure.oracle import Oracle, oracle

__all__ = ["Diagnosis", "Ledger", "Oracle", "Reduction", "describe", "diagnose", "ledger", "oracle", "reductions"]
