"""Reports and drawings of the detections of a trained model."""
