"""Gradients of deep plain networks shatter towards white noise (Balduzzi 2017)."""
