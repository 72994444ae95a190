"""The kernels of neural capacitance: pure JAX on arrays and functions."""
