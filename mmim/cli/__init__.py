"""The `mmim` commands."""
