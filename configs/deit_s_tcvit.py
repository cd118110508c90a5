"""TC-ViT on DeiT-S, ImageNet-1k: remove 16 of 196 patch tokens in each block.

python eval.py --config configs/deit_s_tcvit.py --weights deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_tcvit.py
python train.py --config configs/deit_s_tcvit.py:finetune --config.weights=deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_tcvit.py:selfdistill --config.weights=deit_small_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import TCViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_S,
    method="TC-ViT",
    reducer=TCViT(),
    schedule=16,
    gmacs=2.295,
    published={
        "off_the_shelf": [
            recipes.Result(
                "TC-ViT",
                79.8,
                gmacs=2.3,
                source="abstract",
                note="no degradation at half of the multiply-adds; training is not stated",
            ),
        ],
        "finetune": [
            recipes.Result("TC-ViT", 79.8, gmacs=2.3, source="abstract", note="at least; recipe not public"),
        ],
        "selfdistill": [
            recipes.Result("TC-ViT", 79.8, gmacs=2.3, source="abstract", note="at least; recipe not public"),
        ],
    },
    related={
        "finetune": [
            recipes.Result(
                "MCTF", 79.9, gmacs=2.4, source="repository; Papers with Code", note="with a consistency loss"
            ),
        ],
        "selfdistill": [
            recipes.Result(
                "MCTF", 79.9, gmacs=2.4, source="repository; Papers with Code", note="with a consistency loss"
            ),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
