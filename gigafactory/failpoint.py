"""Places where the works may die, by name, for those who test that nothing is lost.

`$GIGAFACTORY_FAILPOINT=NAME` kills this process at the first pass of that place, and
`NAME:3` at the third, as `kill -9` would: nothing is flushed, nobody is told.
"""

import os
import signal

_name, _, _count = os.environ.get("GIGAFACTORY_FAILPOINT", "").partition(":")
_passes_left = int(_count or 1)


def failpoint(name: str) -> None:
    """Die here where it was asked for; else nothing."""
    global _passes_left
    if name != _name:
        return
    _passes_left -= 1
    if _passes_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
