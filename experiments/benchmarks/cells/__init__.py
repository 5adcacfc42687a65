"""What a sweep can time: layers, sampling, training steps. One class per kind, registered in benchmarks/config.py."""
