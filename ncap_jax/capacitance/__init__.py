"""The edge-dynamics kernels: pure JAX on arrays and functions."""
