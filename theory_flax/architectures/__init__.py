"""The published architectures, layer by layer, drawn beside each other."""
