"""Looking inside a network: features, tables, traces and pictures."""
