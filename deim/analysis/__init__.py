"""Error analysis of detections, computed from arrays without a model or images."""

from deim.analysis.confusion import confusion_matrix
from deim.analysis.curves import PrecisionRecallCurve, precision_recall_curves
from deim.analysis.detection_matching import OUTCOMES, ImageResult, MatchResult, match_detections

__all__ = [
    "OUTCOMES",
    "ImageResult",
    "MatchResult",
    "PrecisionRecallCurve",
    "confusion_matrix",
    "match_detections",
    "precision_recall_curves",
]
