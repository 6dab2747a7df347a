"""Layers without convolutions: normalisation, pooling, dense layers, dropout."""
