"""Every published metric beside the implementation that defines it."""
