"""Tools that look inside a network: features, tables, traces and pictures."""
