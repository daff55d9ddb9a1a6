"""How close the path of a video's frames is to a geodesic: its paths, their geodesic gradient, and what follows."""
