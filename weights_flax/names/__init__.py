"""Names that other projects give to tensors, and torchvision's for them."""
