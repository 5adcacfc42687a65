"""The published CUDA packages as back ends: mamba-ssm, causal-conv1d. They bring their own autograd functions."""
