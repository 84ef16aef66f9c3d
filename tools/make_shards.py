#!/usr/bin/env python
"""Pack the images of a COCO-format dataset into tar archives.

Same as ``deim make-shards``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deim.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("make-shards"))
