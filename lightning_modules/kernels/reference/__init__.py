"""The oracle: every operation written as its definition, in any precision, differentiable by autograd. Slow on purpose."""
