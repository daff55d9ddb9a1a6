"""The recipe that makes what ships: a small Stable-Diffusion-shaped model and an attribute network.

Stages: autoencoder, whitening of its latents, diffusion (U-Net and text encoder), attribute network,
evaluation, export.
"""
