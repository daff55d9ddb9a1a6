"""Fields, manifolds, paths, geometries and solvers: the mathematics, on torch and scipy alone."""
