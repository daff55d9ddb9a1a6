"""Experiments: a folder each, whose `recipe.py` holds the class that the configuration names."""
