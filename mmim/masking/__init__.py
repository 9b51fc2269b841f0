"""Masking policies (which token first) and budgets (how many)."""
