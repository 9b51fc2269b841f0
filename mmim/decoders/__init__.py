"""Who predicts what was hidden."""
