"""Measurements of the networks, each a command."""
