"""What tensors tell: numbers of weights, and of the gradients that optimizers remember."""
