"""What stands where a token is hidden."""
