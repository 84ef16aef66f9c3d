"""Error analysis of detections, computed from arrays without a model or images."""

from deim.analysis.confusion import confusion_matrix
from deim.analysis.curves import Curve, curves_of_classes
from deim.analysis.judging import KINDS, Found, Judged, judge

__all__ = ["KINDS", "Curve", "Found", "Judged", "confusion_matrix", "curves_of_classes", "judge"]
