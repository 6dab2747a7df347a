"""Translation of other projects' names of tensors into torchvision's."""
