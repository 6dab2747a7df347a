"""Convolutions, and the formulas that compute them on each backend."""
