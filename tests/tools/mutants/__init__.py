"""Formulas broken on purpose: the tests must see each of them."""
