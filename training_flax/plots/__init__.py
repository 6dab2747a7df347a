"""Curves, confusion matrices and grids of images."""
