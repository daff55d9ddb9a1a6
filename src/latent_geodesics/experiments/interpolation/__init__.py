"""Morphs between pairs of images by every method, measured: the benchmark, the ablations and the demo too."""
