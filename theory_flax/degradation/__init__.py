"""Deeper plain networks train worse, residual ones do not (He 2015, section 4)."""
