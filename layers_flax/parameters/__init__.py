"""The arrays of a layer: initial distributions, and parameters as layers read them."""
