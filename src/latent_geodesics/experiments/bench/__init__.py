"""Speed: what the machinery around the network costs, measured on the machine at hand and kept to compare with."""
