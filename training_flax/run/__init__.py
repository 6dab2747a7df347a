"""A run on disk and in motion: plan, programs, loop, checkpoints, logs."""
