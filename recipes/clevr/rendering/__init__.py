"""CLEVR scenes: described as data, sampled from a seed, moved exactly, and rendered by Cycles in another process.

The renderer needs Blender's Python module `bpy`, which lives in its own interpreter (`make render-env`) and is only
ever called as a subprocess. Nothing in this package imports it, except the worker script that the other interpreter
runs.
"""
