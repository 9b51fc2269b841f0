"""Who sees the visible tokens."""
