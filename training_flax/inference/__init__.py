"""Predictions of trained networks for arrays and for files."""
