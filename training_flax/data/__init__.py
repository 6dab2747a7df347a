"""Data sets, image files, and batches on their way to the devices."""
