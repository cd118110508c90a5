"""ToMe on DeiT-S, ImageNet-1k: remove 13 of 196 patch tokens in each block.

python eval.py --config configs/deit_s_tome.py --weights deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_tome.py
python train.py --config configs/deit_s_tome.py:finetune --config.weights=deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_tome.py:selfdistill --config.weights=deit_small_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import ToMe
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_S,
    method="ToMe",
    reducer=ToMe(),
    schedule=13,
    gmacs=2.724,
    published={
        "off_the_shelf": [
            recipes.Result("ToMe", 79.0, gmacs=2.7, source="a public reproduction", note="approximate"),
        ],
        "scratch": [
            recipes.Result("ToMe", 79.4, gmacs=2.7, source="Papers with Code"),
            recipes.Result("ToMe", 79.36, gmacs=2.7, source="repository"),
        ],
    },
    related={
        "finetune": [
            recipes.Result("DTEM", 79.85, gmacs=2.9, source="abstract, arXiv 2412.10569"),
            recipes.Result("DiffRate", 79.8, gmacs=2.9, source="repository; Papers with Code"),
            recipes.Result("PPT", 79.8, gmacs=2.9, source="repository; Papers with Code"),
        ],
        "selfdistill": [
            recipes.Result(
                "MCTF", 80.1, gmacs=2.6, source="repository; Papers with Code", note="with a consistency loss"
            ),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
