"""``python -m tests.ecosystem.calls FILE`` writes the outcomes of all calls, and the public names, to FILE."""

import pickle
import sys
from pathlib import Path

from tests.ecosystem import surface
from tests.ecosystem.calls import GROUPS, list_calls, outcome

outcomes = {(group, call): outcome(group, call) for group, call in list_calls(*GROUPS, "unsupported")}
Path(sys.argv[1]).write_bytes(
    pickle.dumps({"outcomes": outcomes, "surface": surface.public_names("detectron2", "detrex")})
)
