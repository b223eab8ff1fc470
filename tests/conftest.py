"""What holds for all tests: the compiled core checks every index, and no test is timed."""

import os

from hypothesis import settings

os.environ.setdefault("GIGAFACTORY_BOUNDS", "1")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

LONG = {
    *("test_up", "test_choose", "test_kills", "test_dst", "test_answers", "test_pages"),
    *("test_elastic", "test_works", "test_engine", "test_design", "test_serve"),
    "test_physical_works",
}
"""Files of half a minute and more."""


def pytest_collection_modifyitems(items):
    """Long files first, so that workers who share the tests end together."""
    items.sort(key=lambda item: item.path.stem not in LONG)
