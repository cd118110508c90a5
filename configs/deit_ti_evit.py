"""EViT on DeiT-Ti, ImageNet-1k: keep 70 % of the patch tokens in blocks 3, 6 and 9.

python eval.py --config configs/deit_ti_evit.py --weights deit_tiny_patch16_224.safetensors
python train.py --config configs/deit_ti_evit.py
python train.py --config configs/deit_ti_evit.py:finetune --config.weights=deit_tiny_patch16_224.safetensors
python train.py --config configs/deit_ti_evit.py:selfdistill --config.weights=deit_tiny_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import EViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_TI,
    method="EViT",
    reducer=EViT(),
    schedule=[0, 0, 0, 58, 0, 0, 41, 0, 0, 29, 0, 0],
    gmacs=0.823,
    related={
        "selfdistill": [
            recipes.Result("dTPS", 72.9, gmacs=0.8),
        ],
    },
    reduction_warmup=recipes.EVIT_REDUCTION_WARMUP,
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
