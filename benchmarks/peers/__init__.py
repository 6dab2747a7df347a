"""What a user would pick otherwise, at the same works."""
