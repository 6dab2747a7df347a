"""What `python -m theory_flax NAME` does for each claim: networks, data and training for its pure functions."""
