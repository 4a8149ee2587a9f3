"""Training: the loop and its parts, from the learning rate to checkpoints and metrics."""
