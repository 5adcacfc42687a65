"""Back end `triton` (CUDA): the selective scan, all directions in one launch, in any order of positions, states in
registers; the short convolution with SiLU, symmetric or causal."""
