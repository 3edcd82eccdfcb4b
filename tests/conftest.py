"""For all tests: threads that wait give their core away, for several processes share few cores here."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "2000")
