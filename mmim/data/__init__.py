"""Sources, order, loading, media files and the sample world."""
