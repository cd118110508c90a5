"""EViT on DeiT-S, ImageNet-1k: keep 70 % of the patch tokens in blocks 3, 6 and 9.

python eval.py --config configs/deit_s_evit.py --weights deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_evit.py
python train.py --config configs/deit_s_evit.py:finetune --config.weights=deit_small_patch16_224.safetensors
python train.py --config configs/deit_s_evit.py:selfdistill --config.weights=deit_small_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import EViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_S,
    method="EViT",
    reducer=EViT(),
    schedule=[0, 0, 0, 58, 0, 0, 41, 0, 0, 29, 0, 0],
    gmacs=3.035,
    published={
        "scratch": [
            recipes.Result("EViT", 79.5, gmacs=3.0, source="repository"),
        ],
        "finetune": [
            recipes.Result("EViT", 79.8, source="a later paper", note="30 epochs"),
        ],
    },
    related={
        "off_the_shelf": [
            recipes.Result(
                "EViT",
                73.83,
                gmacs=2.3,
                source="GTP-ViT and others, tables",
                note="not at the keep rate of this row",
            ),
        ],
        "selfdistill": [
            recipes.Result(
                "dTPS", 80.1, gmacs=3.0, source="repository; Papers with Code", note="distilled from dense DeiT-S"
            ),
            recipes.Result("DynamicViT", 79.32, gmacs=2.9, source="repository"),
        ],
    },
    reduction_warmup=recipes.EVIT_REDUCTION_WARMUP,
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
