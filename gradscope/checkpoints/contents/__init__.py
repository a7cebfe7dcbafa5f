"""What lies in what was read: weights, optimizers, whose state is whose, in which order."""
