"""What a detector gets right and wrong, out of arrays: no model and no picture is needed."""

from deim.analysis.confusion import confusion_matrix
from deim.analysis.curves import Curve, curves_of_classes
from deim.analysis.judging import KINDS, Found, Judged, judge

__all__ = ["KINDS", "Curve", "Found", "Judged", "confusion_matrix", "curves_of_classes", "judge"]
