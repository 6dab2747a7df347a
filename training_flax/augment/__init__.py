"""Random changes of images on the devices, and their names."""
