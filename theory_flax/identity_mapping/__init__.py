"""An identity is hard to learn for a stack of layers (He 2015, section 3.1)."""
