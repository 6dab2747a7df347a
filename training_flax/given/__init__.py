"""The parts of a run that users pass to `fit`: their own data, loss, optimizer and callbacks."""
