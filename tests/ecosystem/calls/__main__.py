"""``python -m tests.ecosystem.calls FILE`` writes the outcomes of all calls, and the public names, to FILE."""

import pickle
import sys
from pathlib import Path

from tests.ecosystem import surface
from tests.ecosystem.calls import GROUPS, calls_of, outcome

found = {(group, call): outcome(group, call) for group, call in calls_of(*GROUPS, "unsupported")}
Path(sys.argv[1]).write_bytes(
    pickle.dumps({"outcomes": found, "surface": surface.public_names("detectron2", "detrex")})
)
