"""Searched settings: a sweep's `search` block, tuned by Optuna from many processes at once."""
