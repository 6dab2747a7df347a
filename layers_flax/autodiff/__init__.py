"""Tools that decide how gradients are computed, and what the forward pass keeps for them."""
