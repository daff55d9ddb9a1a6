"""Interpolation and extrapolation of one pair of images, drawn step by step."""
