"""TC-ViT on DeiT-S, finetuned for 30 epochs.

The reduction of `configs/deit_s_tcvit.py`, from published weights.
Published, without a teacher: TC-ViT, abstract: 79.8 % or more, recipe not public; MCTF, with a consistency loss:
79.9 % at 2.4 G.

python train.py --config configs/deit_s_tcvit_finetune.py --config.weights=deit_small_patch16_224.safetensors
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.finetuned(
        base.read(Path(__file__).with_name("deit_s_tcvit.py")), "deit_small_patch16_224.safetensors"
    )
