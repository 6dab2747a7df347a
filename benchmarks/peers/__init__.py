"""Peers that users would choose instead, at the same works."""
