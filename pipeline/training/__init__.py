"""Training a network: the loop, losses, optimizers, schedules, checkpoints, several devices."""
