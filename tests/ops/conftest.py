"""float64 where a test asks for it, and cheap compilation."""

from tests.support.fixtures import quick_compilation, x64

__all__ = ["quick_compilation", "x64"]
