"""Image generators, one file each; `config.py` holds their torch-free configurations."""
