"""Vision Transformers as Flax linen modules, and the registry of pretrained models."""

from tcvit_jax.models.create import (
    condense,
    count_parameters,
    create_model,
    from_config,
    parameter_shapes,
    to_config,
    variable_shapes,
)
from tcvit_jax.models.lvvit import LVViT
from tcvit_jax.models.variables import check_variables
from tcvit_jax.models.vit import ViT
from tcvit_jax.models.zoo import list_models, preprocessing

__all__ = [
    "LVViT", "ViT", "check_variables", "condense", "count_parameters", "create_model", "from_config", "list_models",
    "parameter_shapes", "preprocessing", "to_config", "variable_shapes",
]  # fmt: skip
