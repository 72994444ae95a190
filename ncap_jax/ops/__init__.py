"""Pure JAX operations that several rooms use: depthwise convolution, pooling, dtypes."""
