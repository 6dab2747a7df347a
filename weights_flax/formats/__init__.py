"""Formats of files, each read into named tensors without running code."""
