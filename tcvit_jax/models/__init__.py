"""Vision Transformers as Flax linen modules, and the registry of their names."""

from tcvit_jax.models.vit import ViT
from tcvit_jax.models.zoo import create_model, from_config, list_models, preprocessing, to_config

__all__ = ["ViT", "create_model", "from_config", "list_models", "preprocessing", "to_config"]
