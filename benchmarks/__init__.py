"""Measurements for the documentation, and comparisons with other implementations. Run from a checkout."""

import deim  # noqa: F401 - supplies detectron2 and detrex where they are missing
