"""The commands beside the ranking, one a module: `main(words)` returns the exit code.

Each has flags of its own. `ncap_jax.__main__.COMMANDS` names them.
"""
