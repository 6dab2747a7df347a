"""Function families of residual networks are nested, those of plain ones are not."""
