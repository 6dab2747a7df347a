"""Shared by claims: a network as a sum of its blocks, estimates, results, figures, options."""
