"""What a network is: its interface, parameters, shapes, counts and names under PyTorch."""
