"""GTP-ViT on DeiT-S, ImageNet-1k: remove 8 of 196 patch tokens in each block.

python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_gtp.py
python train.py --config configs/deit_s_gtp.py:finetune --config.weights=deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_gtp.py:selfdistill --config.weights=deit_small_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import GTP
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_S,
    method="GTP-ViT",
    reducer=GTP(),
    schedule=8,
    gmacs=3.438,
    published={
        "off_the_shelf": [
            recipes.Result(
                "GTP-ViT", 79.5, gmacs=3.4, source="abstract", note="approximate: 0.3 below the dense model"
            ),
        ],
    },
    related={
        "finetune": [
            recipes.Result("DTEM", 79.85, gmacs=2.9, source="abstract, arXiv 2412.10569"),
        ],
        "selfdistill": [
            recipes.Result(
                "dTPS", 80.1, gmacs=3.0, source="repository; Papers with Code", note="distilled from dense DeiT-S"
            ),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
