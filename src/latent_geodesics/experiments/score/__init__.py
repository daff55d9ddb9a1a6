"""Scoring sequences that others made."""
