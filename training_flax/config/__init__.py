"""The options of a run, and published recipes that fill them in."""
