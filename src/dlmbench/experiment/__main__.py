"""`python -m dlmbench.experiment` prints the JSON schema of the experiment file, for editors."""

import json
import sys

from dlmbench.experiment.schema import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
