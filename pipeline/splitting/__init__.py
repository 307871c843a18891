"""Decide which images train, validate and test: groups, cuts, and what a person has decided."""
