"""TC-ViT on DeiT-B, finetuned for 30 epochs, taught by the dense model of the same weights.

The reduction of `configs/deit_b_tcvit.py`, from published weights.
Published, with a teacher: none for TC-ViT.

python train.py --config configs/deit_b_tcvit_selfdistill.py --config.weights=deit_base_patch16_224.safetensors
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.selfdistilled(
        base.read(Path(__file__).with_name("deit_b_tcvit.py")), "deit_base_patch16_224.safetensors"
    )
