"""beta_eff of models: of a probe, of a whole network, during fine-tuning, in a user's own loop.

The one place where the kernels of `ncap_jax.capacitance` meet the models of `ncap_jax.zoo`.
"""
