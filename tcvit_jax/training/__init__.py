"""Training: optimizer, state, the compiled step, checkpoints, and the loop that ties them together."""
