"""The process and its machine: devices, compilation, memory, signals, terminal."""
