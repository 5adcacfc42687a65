"""Back end `triton`: one launch for all directions of a scan, in any order of positions, states in registers (CUDA)."""
