"""Training: from a config to a trained state. Set-up, the pure step, the loop, checkpoints."""
