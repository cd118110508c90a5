"""TC-ViT on DeiT-B, ImageNet-1k: remove 16 of 196 patch tokens in each block.

python eval.py --config configs/deit_b_tcvit.py --weights deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_tcvit.py
python train.py --config configs/deit_b_tcvit.py:finetune --config.weights=deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_tcvit.py:selfdistill --config.weights=deit_base_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import TCViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_B,
    method="TC-ViT",
    reducer=TCViT(),
    schedule=16,
    gmacs=8.763,
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
