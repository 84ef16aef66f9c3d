"""``python -m tests.ecosystem.calls FILE`` writes the outcomes of all calls to FILE."""

import sys

from tests.ecosystem.calls import main

main(sys.argv[1])
