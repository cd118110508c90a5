"""ToMe on DeiT-Ti, finetuned for 30 epochs, taught by the dense model of the same weights.

The reduction of `configs/deit_ti_tome.py`, from published weights.
Published, with a teacher: none for ToMe; dTPS: 72.9 % at 0.8 G.

python train.py --config configs/deit_ti_tome_selfdistill.py --config.weights=deit_tiny_patch16_224.safetensors
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.selfdistilled(
        base.read(Path(__file__).with_name("deit_ti_tome.py")), "deit_tiny_patch16_224.safetensors"
    )
