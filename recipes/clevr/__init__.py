"""How the shipped scenes and models are made: rendering and training."""
