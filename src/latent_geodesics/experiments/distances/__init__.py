"""Geodesic distances between many images: which paths, how they become one matrix, and what it is worth."""
