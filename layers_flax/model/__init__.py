"""Networks as a whole: contract, table of architectures, shapes, counts, deepening, names under PyTorch."""
