"""Paths that leave images: what follows them, what writes them down, their figures and their page."""
