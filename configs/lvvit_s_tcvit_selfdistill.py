"""TC-ViT on LV-ViT-S, finetuned for 30 epochs, taught by the dense model of the same weights.

The reduction of `configs/lvvit_s_tcvit.py`, from published weights.
Published, with a teacher: none for TC-ViT; DynamicViT: 81.97 % at 3.7 G.

python train.py --config configs/lvvit_s_tcvit_selfdistill.py --config.weights=lvvit_s-26M-224-83.3.pth.tar
"""

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The reduction of the other file, and the recipe of `_finetune.py`."""
    recipe = base.module(Path(__file__).with_name("_finetune.py"))
    return recipe.selfdistilled(base.read(Path(__file__).with_name("lvvit_s_tcvit.py")), "lvvit_s-26M-224-83.3.pth.tar")
