"""Training runs: plan, programs, loop, checkpoints, logs."""
