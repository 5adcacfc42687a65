"""Small orthogonal modules that the generators are built from."""
