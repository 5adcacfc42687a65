"""The published CUDA packages mamba-ssm and causal-conv1d as back ends. They bring their own autograd functions."""
