"""Geodesics of closed-form densities in the plane."""
