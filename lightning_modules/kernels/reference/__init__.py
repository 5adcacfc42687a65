"""The oracle: every operation as its definition, in any precision, differentiated by autograd. Slow on purpose."""
