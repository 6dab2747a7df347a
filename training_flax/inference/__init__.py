"""What a trained network predicts of arrays and of files."""
