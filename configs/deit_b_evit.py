"""EViT on DeiT-B, ImageNet-1k: keep 70 % of the patch tokens in blocks 3, 6 and 9.

python eval.py --config configs/deit_b_evit.py --weights deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_evit.py
python train.py --config configs/deit_b_evit.py:finetune --config.weights=deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_evit.py:selfdistill --config.weights=deit_base_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import EViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_B,
    method="EViT",
    reducer=EViT(),
    schedule=[0, 0, 0, 58, 0, 0, 41, 0, 0, 29, 0, 0],
    gmacs=11.621,
    published={
        "off_the_shelf": [
            recipes.Result("EViT", 80.5, gmacs=11.6, source="GTP-ViT, table"),
        ],
    },
    related={
        "selfdistill": [
            recipes.Result("DynamicViT", 81.43, gmacs=11.4),
        ],
    },
    reduction_warmup=recipes.EVIT_REDUCTION_WARMUP,
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
