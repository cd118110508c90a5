"""Overrides for short runs on the digits data set."""

from tests.conftest import ROOT

GTP = str(ROOT / "configs" / "digits_gtp.py")

TINY = (
    "--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2", "--config.schedule=8",
    "--config.batch_size=64", "--config.eval_batch_size=64", "--config.epochs=1", "--config.eval_every=0.5",
    "--config.optimizer.warmup_epochs=0.2", "--config.log_every=5", "--config.checkpoint_every=4",
)  # fmt: skip
