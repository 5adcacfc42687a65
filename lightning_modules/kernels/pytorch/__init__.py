"""Back end `torch`: plain PyTorch, any device and dtype, no compiler needed."""
