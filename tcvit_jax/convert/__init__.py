"""timm weights in and out of our parameter trees, as a table of rules."""

from tcvit_jax.convert.files import read_state_dict
from tcvit_jax.convert.timm import from_torch

__all__ = ["from_torch", "read_state_dict"]
