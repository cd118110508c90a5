"""Vision Transformers as Flax linen modules, and the registry of their names."""

from tcvit_jax.models.vit import ViT
from tcvit_jax.models.zoo import (
    condense,
    count_parameters,
    create_model,
    from_config,
    list_models,
    parameter_shapes,
    preprocessing,
    to_config,
)

__all__ = [
    "ViT", "condense", "count_parameters", "create_model", "from_config", "list_models", "parameter_shapes",
    "preprocessing", "to_config",
]  # fmt: skip
