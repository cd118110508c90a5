"""EViT on DeiT-S, finetuned for 30 epochs.

The reduction of `configs/deit_s_evit.py`, from published weights.
Published, without a teacher: EViT finetuned for 30 epochs: 79.8 %, by a later paper's account.

python train.py --config configs/deit_s_evit_finetune.py --config.weights=deit_small_patch16_224.safetensors
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.finetuned(base.read(Path(__file__).with_name("deit_s_evit.py")), "deit_small_patch16_224.safetensors")
