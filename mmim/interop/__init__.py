"""Weights of other people's code in, and ours out: the mechanism; the key maps stand in `recipes/weights`."""
