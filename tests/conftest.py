"""What holds for all tests: the compiled core checks every index."""

import os

os.environ.setdefault("GIGAFACTORY_BOUNDS", "1")
