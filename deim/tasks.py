"""Tasks of the models."""

# Name of each task in COCO's evaluation, which is the prefix of its metrics, and what is predicted.
TASKS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
