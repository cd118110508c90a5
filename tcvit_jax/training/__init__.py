"""Training: optimizer, state, compiled step, checkpoints and the training loop."""
