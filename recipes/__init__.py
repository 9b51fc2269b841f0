"""One short script per published method."""
