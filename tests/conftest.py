"""For all tests: threads that wait give their core away, for several processes share few cores here.

What the user has measured of this machine is not theirs.
"""

import os
import tempfile

os.environ["XDG_STATE_HOME"] = os.path.join(tempfile.gettempdir(), "dlmbench-tests-without-state")  # noqa: PTH118
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
