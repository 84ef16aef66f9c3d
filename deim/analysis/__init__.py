"""Error analysis of detections, computed from arrays without a model or images."""

from deim.analysis.confusion import confusion_matrix
from deim.analysis.curves import PrecisionRecallCurve, precision_recall_curves
from deim.analysis.detection_matching import OUTCOMES, ImageResult, MatchResult, match_detections
from deim.analysis.keypoint_errors import KeypointErrors, keypoint_errors

__all__ = [
    "OUTCOMES",
    "ImageResult",
    "KeypointErrors",
    "MatchResult",
    "PrecisionRecallCurve",
    "confusion_matrix",
    "keypoint_errors",
    "match_detections",
    "precision_recall_curves",
]
