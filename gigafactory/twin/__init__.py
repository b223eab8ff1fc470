"""The same plan and the same core on a virtual clock: days in milliseconds."""

from gigafactory.twin.story import simulate

__all__ = ["simulate"]
