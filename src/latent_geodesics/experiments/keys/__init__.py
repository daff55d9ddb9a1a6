"""The experiment of paths through several key images."""
