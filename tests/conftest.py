"""What holds for all tests: the compiled core checks every index, no property has a deadline and
the same examples are tried everywhere; `--hypothesis-profile=fuzz` draws anew, and more of them."""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("GIGAFACTORY_BOUNDS", "1")
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **UNTIMED)
settings.register_profile("fuzz", derandomize=False, print_blob=True, **UNTIMED)
settings.load_profile("same")

FUZZ_TIMES = 20
"""So many times a property's own examples."""

LONG = {
    *("test_up", "test_choose", "test_kills", "test_dst", "test_answers", "test_pages"),
    *("test_elastic", "test_works", "test_engine", "test_design", "test_serve"),
    "test_physical_works",
}
"""Files of half a minute and more."""


def pytest_collection_modifyitems(items):
    """Long files first, so that workers who share the tests end together."""
    items.sort(key=lambda item: item.path.stem not in LONG)
    if settings.get_current_profile_name() == "fuzz":
        properties = {item.function for item in items if hasattr(item.function, "hypothesis")}
        machines = {item.cls for item in items if hasattr(item.cls, "settings")}
        for of in properties:
            of._hypothesis_internal_use_settings = more(of._hypothesis_internal_use_settings)
        for of in machines:
            of.settings = more(of.settings)


def more(own):
    """A property's settings, also of one that says `derandomize`, for many examples drawn anew."""
    return settings(own, max_examples=FUZZ_TIMES * own.max_examples, derandomize=False)
