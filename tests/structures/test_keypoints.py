"""Similarity of keypoints, compared with pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim.structures.keypoints import COCO_SIGMAS, labeled_distance, object_keypoint_similarity, oks_sigmas


def test_similarity_equals_pycocotools() -> None:
    generator = np.random.default_rng(0)
    target = np.concatenate([generator.uniform(20, 80, (3, 17, 2)), generator.integers(0, 3, (3, 17, 1))], axis=2)
    predicted = target[..., :2] + generator.normal(0, 6, (3, 17, 2))
    areas = [400.0, 900.0, 2500.0]
    coco = COCO()
    fields = {"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 9, 9]}
    coco.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [
            {**fields, "id": i + 1, "area": areas[i], "keypoints": target[i].flatten().tolist(), "num_keypoints": 9}
            for i in range(3)
        ],
    }
    coco.createIndex()
    results = [
        {"image_id": 1, "category_id": 1, "score": 1 - i / 9, "keypoints": np.c_[predicted[i], np.ones(17)].flatten()}
        for i in range(3)
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
    evaluation._prepare()
    expected = evaluation.computeOks(1, 1)
    actual = object_keypoint_similarity(
        torch.from_numpy(predicted)[:, None], torch.from_numpy(target), torch.tensor(areas).double(), COCO_SIGMAS
    )
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_only_labeled_keypoints_count() -> None:
    target = torch.tensor([[[1.0, 2.0, 2.0], [5.0, 5.0, 0.0], [3.0, 3.0, 1.0]]])
    predicted = torch.tensor([[[1.5, 1.0], [99.0, 99.0], [3.0, 3.25]]])
    assert labeled_distance(predicted, target).tolist() == [0.5 + 1.0 + 0.25]
    unlabeled = target * torch.tensor([1.0, 1.0, 0.0])
    assert labeled_distance(predicted, unlabeled).tolist() == [0]
    assert object_keypoint_similarity(predicted, unlabeled, torch.ones(1), [0.1] * 3).tolist() == [0]


def test_sigmas() -> None:
    assert oks_sigmas(17) == list(COCO_SIGMAS)
    assert oks_sigmas(2) == [0.05, 0.05]
    assert oks_sigmas(2, [0.1, 0.2]) == [0.1, 0.2]
    with pytest.raises(ValueError, match="3 sigmas for 2 keypoints"):
        oks_sigmas(2, [0.1] * 3)
