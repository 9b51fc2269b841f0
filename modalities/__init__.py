"""Built-in modalities, each one file, found through the entry points `mmim.modalities` as a stranger's would be."""
