"""ToMe on DeiT-B, finetuned for 30 epochs.

The reduction of `configs/deit_b_tome.py`, from published weights.
Published, without a teacher: none for ToMe on DeiT-B.

python train.py --config configs/deit_b_tome_finetune.py --config.weights=deit_base_patch16_224.safetensors
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.finetuned(base.read(Path(__file__).with_name("deit_b_tome.py")), "deit_base_patch16_224.safetensors")
