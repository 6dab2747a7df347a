"""Optimizer, one step of training and of evaluation, and the weights to start from."""
