"""One epoch more of the Fashion-MNIST model at half of its multiply-adds, taught by itself before the reduction.

As `configs/fashion_finetune.py`, whose dense weights are also the teacher: half of the loss is the teacher's
distribution, and restored patches are drawn to the teacher's with a weight of one half. Results: README.

python train.py --config configs/fashion_selfdistill.py --config.data.dir=PATH --config.weights=runs/fashion_dense --config.reducer.name=gtp
"""  # noqa: E501

from pathlib import Path

from tcvit_jax import config as base


def get_config() -> base.Config:
    """The finetune's recipe, and a teacher."""
    config = base.read(Path(__file__).with_name("fashion_finetune.py"))
    config.distill.update(teacher="dense", kind="soft", weight=0.5, temperature=1.0, tokens=0.5)
    return config
