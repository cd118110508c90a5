"""Conversion between weight files of timm, AugReg or TokenLabeling and Flax variables, by the parameter tables."""

from tcvit_jax.convert.command import Report, to_checkpoint, to_safetensors
from tcvit_jax.convert.mapping import Conversion, convert, from_torch, to_torch
from tcvit_jax.convert.sources import read_state_dict

__all__ = [
    "Conversion", "Report", "convert", "from_torch", "read_state_dict", "to_checkpoint", "to_safetensors", "to_torch",
]  # fmt: skip
