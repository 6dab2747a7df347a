"""What users pass to `fit`: their own data, loss, optimizer and callbacks."""
