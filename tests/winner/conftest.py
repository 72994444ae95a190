"""The programs of these tests run a few times each: most of their time is compiling them."""

from tests.support.compilations import cheap_programs

__all__ = ["cheap_programs"]
