"""Faults that strike a training at random moments, and what became of it: each campaign gives rows of a table.

`make faults` runs them in full (test_campaigns.py), `make test` short versions (tests/test_reliability.py).
"""
