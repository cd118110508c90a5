"""GTP-ViT on DeiT-B, ImageNet-1k: remove 8 of 196 patch tokens in each block.

python eval.py --config configs/deit_b_gtp.py --weights deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_gtp.py
python train.py --config configs/deit_b_gtp.py:finetune --config.weights=deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_gtp.py:selfdistill --config.weights=deit_base_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import GTP
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_B,
    method="GTP-ViT",
    reducer=GTP(),
    schedule=8,
    gmacs=13.148,
    published={
        "off_the_shelf": [
            recipes.Result("GTP-ViT", 81.5, gmacs=13.1, source="GTP-ViT, table"),
            recipes.Result(
                "GTP-ViT", 81.46, source="repository", note="with sparsified attention, which this row does not use"
            ),
        ],
    },
    related={
        "selfdistill": [
            recipes.Result("DynamicViT", 81.43, gmacs=11.4),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
