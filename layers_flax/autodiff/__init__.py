"""How gradients are taken and what the forward pass keeps for them."""
