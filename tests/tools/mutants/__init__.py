"""Formulas broken on purpose: the tests must notice each of them."""
