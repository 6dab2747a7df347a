"""Networks in and out of files, by the name of their architecture."""
