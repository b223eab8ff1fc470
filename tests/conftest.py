"""What holds for all tests: the compiled core checks every index, and no test is timed."""

import os

from hypothesis import settings

os.environ.setdefault("GIGAFACTORY_BOUNDS", "1")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
