"""What experiments share: networks of runs and images, and how networks are trained to be compared."""
