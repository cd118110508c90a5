"""What finetunes share, and what a teacher adds: 30 epochs at small rates, after EViT's finetune (Liang et al., 2022).

EViT's script multiplies its rate, 2e-5, by images a step / 512; here it is what it says. As there, stochastic depth is
off. Configurations read this file; it is none by itself.
"""

from tcvit_jax import config as base


def finetuned(config: base.Config, weights: str) -> base.Config:
    """`config` for 30 epochs from `weights`: 2,048 images a step, the rate from 2e-5 to 2e-6, hardly any decay."""
    config.update(weights=weights, batch_size=2048, epochs=30.0, eval_every=1.0, checkpoint_every=625)
    config.model.drop_path_rate = 0.0
    # Pixels are mixed as before; tokens and their labels are not, as in the finetunes of others.
    config.mixing.update(mix_token=False)
    config.update(token_labels=0.0)
    config.warmdown.update(start_epoch=0.0, epochs=0.0)
    config.optimizer.update(
        lr=2e-5, lr_batch_size=0, min_lr=2e-6, warmup_lr=0.0, warmup_epochs=0.0, weight_decay=1e-6, ema_decay=0.9998
    )
    return config


def selfdistilled(config: base.Config, weights: str) -> base.Config:
    """The same, and half of the loss from the dense model of the same weights, restored patches drawn to its own."""
    config = finetuned(config, weights)
    config.distill.update(teacher="dense", kind="soft", weight=0.5, temperature=1.0, tokens=0.5)
    return config
