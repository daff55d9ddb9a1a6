"""Every method as a diagram of what it does with two images."""
