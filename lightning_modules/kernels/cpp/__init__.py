"""Back end `cpp`: C++ for the processor at hand, compiled on first use with the system compiler."""
