"""How a geodesic comes about, iteration by iteration."""
