"""Pure JAX that several stages use; what has a form of its own for a convolution registers it."""

from ncap_jax.ops import depthwise as depthwise
from ncap_jax.ops import pointwise as pointwise
from ncap_jax.ops import spatial as spatial
