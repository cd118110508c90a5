"""TC-ViT on LV-ViT-S, finetuned for 30 epochs.

The reduction of `configs/lvvit_s_tcvit.py`, from published weights.
Published, without a teacher: none for TC-ViT on LV-ViT-S.

python train.py --config configs/lvvit_s_tcvit_finetune.py --config.weights=lvvit_s-26M-224-83.3.pth.tar
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.finetuned(base.read(Path(__file__).with_name("lvvit_s_tcvit.py")), "lvvit_s-26M-224-83.3.pth.tar")
