from .box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh

__all__ = ["box_cxcywh_to_xyxy", "box_xyxy_to_cxcywh"]
