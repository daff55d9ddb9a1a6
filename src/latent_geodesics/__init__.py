"""Probability-density geodesics in the latent space of image diffusion models."""
