"""The criterion for detrex models, compared with an independent reference."""

import pytest
import torch

from deim import model_zoo
from deim.errors import ConfigError
from deim.fallback import is_standalone
from deim.modeling import DetrexCriterion
from deim.modeling.matching import HungarianMatcher, MatchingCost
from tests.parity.test_losses_reference import CLASSES, make_case, reference_losses

WEIGHTS = {"loss_class": 2.0, "loss_bbox": 5.0, "loss_giou": 3.0}
FOCAL = {"classification": "focal", "alpha": 0.25, "gamma": 2.0}


def as_outputs(predictions) -> dict:
    """Return predictions in the format of detrex models."""
    layers = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(predictions.logits, predictions.boxes, strict=True)]
    return {**layers[-1], "aux_outputs": layers[:-1]}


def case(seed: int, counts: list[int]):
    """Return random outputs, targets and dn_metas in detrex's format, and the same in this project's format."""
    groups, targets, denoising = make_case(seed, counts)
    groups = {name: groups[name] for name in ("main", "encoder", "denoising") if name in groups}
    for predictions in groups.values():
        predictions.edges = None
    outputs = as_outputs(groups["main"])
    outputs["enc_outputs"] = {k: v for k, v in as_outputs(groups["encoder"]).items() if k != "aux_outputs"}
    dn_metas = None
    if denoising is not None:
        dn_metas = {
            "output_known_lbs_bboxes": as_outputs(groups["denoising"]),
            "dn_num": denoising.num_groups,
            "single_padding": denoising.group_size,
        }
    image_targets = [
        {"labels": labels[:n], "boxes": boxes[:n]}
        for labels, boxes, n in zip(targets.labels, targets.boxes, targets.counts, strict=True)
    ]
    return (outputs, image_targets, dn_metas), (groups, targets, denoising)


def detrex_name(name: str, kind: str, layers: int) -> str:
    """Return detrex's name of a loss term of this project."""
    name = name.replace(f"loss_{kind}", "loss_class").replace("_aux_", "_").replace("_enc_0", "_enc")
    return name.removesuffix(f"_{layers - 1}") if "_dn_" in name and name.endswith(f"_{layers - 1}") else name


@pytest.mark.parametrize("kind", ["mal", "vfl", "focal"])
@pytest.mark.parametrize("counts", [[1], [2], [2, 0, 4]], ids=str)
def test_every_term_equals_the_reference(kind: str, counts: list[int]) -> None:
    options = {"mal": {"gamma": 1.5}, "vfl": {"alpha": 0.75, "gamma": 2.0}, "focal": {"alpha": 0.25, "gamma": 2.0}}
    criterion = DetrexCriterion(CLASSES, kind, WEIGHTS, **options[kind])
    theirs, ours = case(0, counts)
    actual = criterion(*theirs)
    layers = len(ours[0]["main"].logits)
    expected = {
        detrex_name(name, kind, layers): value for name, value in reference_losses(kind, *ours, use_union=False).items()
    }
    assert set(actual) == set(expected) == set(criterion.weight_dict)
    for name, value in expected.items():
        assert float(actual[name]) == pytest.approx(value, rel=1e-6, abs=1e-9), name
        assert criterion.weight_dict[name] == WEIGHTS["_".join(name.split("_")[:2])]
        actual[name] *= criterion.weight_dict[name]  # in place, as models do


def test_query_groups_are_matched_separately() -> None:
    (outputs, targets, _), _ = case(0, [2, 3])
    separate = DetrexCriterion(CLASSES, **FOCAL)({k: outputs[k] for k in ("pred_logits", "pred_boxes")}, targets)
    twice = {k: torch.cat([outputs[k], outputs[k]], dim=1) for k in ("pred_logits", "pred_boxes")}
    for name, value in DetrexCriterion(CLASSES, **FOCAL, group_nums=2)(twice, targets).items():
        torch.testing.assert_close(value, separate[name], msg=name)


def test_detrex_criterion_defaults() -> None:
    """By default the criterion uses MAL; the matcher and the loss parameters can be changed."""
    theirs, _ = case(0, [2, 3])
    criterion = DetrexCriterion(CLASSES)
    actual = criterion(*theirs)
    assert criterion.weight_dict["loss_class"] == 1
    assert criterion.weight_dict["loss_bbox_0"] == 5
    assert criterion.weight_dict["loss_giou_dn"] == 2
    explicit = DetrexCriterion(CLASSES, "mal", gamma=1.5, matcher=HungarianMatcher())(*theirs)
    for name, value in actual.items():
        torch.testing.assert_close(explicit[name], value, msg=name)
    other_matcher = HungarianMatcher(MatchingCost(class_weight=0.0, bbox_weight=0.0, giou_weight=-1.0))
    assert not torch.allclose(
        DetrexCriterion(CLASSES, matcher=other_matcher)(*theirs)["loss_bbox"], actual["loss_bbox"]
    )
    focal = DetrexCriterion(CLASSES, **FOCAL)(*theirs)["loss_class"]
    for changes in ({"gamma": 3.0}, {"alpha": 0.5}):
        assert not torch.allclose(DetrexCriterion(CLASSES, **{**FOCAL, **changes})(*theirs)["loss_class"], focal), (
            changes
        )


def test_denoising_outputs_of_dn_detr() -> None:
    (outputs, targets, dn_metas), _ = case(1, [2, 4])
    criterion = DetrexCriterion(CLASSES, **FOCAL)
    expected = criterion(outputs, targets, dn_metas)
    assert "loss_class_dn" in expected
    dn_detr_outputs = {
        **outputs,
        "denoising_output": dn_metas["output_known_lbs_bboxes"],
        "denoising_groups": torch.tensor(dn_metas["dn_num"]),
        "max_gt_num_per_image": dn_metas["single_padding"],
    }
    actual = criterion(dn_detr_outputs, targets)
    assert set(actual) == set(expected)
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_class_agnostic_encoder_proposals() -> None:
    (outputs, targets, _), _ = case(0, [2, 3])
    single_class_targets = [
        {"labels": torch.zeros_like(target["labels"]), "boxes": target["boxes"]} for target in targets
    ]
    outputs = {name: outputs[name] for name in ("pred_logits", "pred_boxes", "enc_outputs")}
    actual = DetrexCriterion(CLASSES, **FOCAL, two_stage_binary_cls=True)(outputs, targets)
    relabeled = DetrexCriterion(CLASSES, **FOCAL)(outputs, single_class_targets)
    for name in ("loss_class_enc", "loss_bbox_enc", "loss_giou_enc"):
        torch.testing.assert_close(actual[name], relabeled[name])
    plain = DetrexCriterion(CLASSES, **FOCAL)(outputs, targets)
    assert not torch.allclose(actual["loss_class_enc"], plain["loss_class_enc"])
    torch.testing.assert_close(actual["loss_class"], plain["loss_class"])


def test_query_groups_exist_only_in_training() -> None:
    (outputs, targets, _), _ = case(0, [2, 3])
    outputs = {
        name: outputs[name] for name in ("pred_logits", "pred_boxes")
    }  # 5 queries cannot be divided into two groups
    criterion = DetrexCriterion(CLASSES, **FOCAL, group_nums=2).eval()
    for name, value in DetrexCriterion(CLASSES, **FOCAL)(outputs, targets).items():
        torch.testing.assert_close(criterion(outputs, targets)[name], value)


def test_softmax_with_background_class_is_rejected() -> None:
    (outputs, targets, _), _ = case(0, [2])
    with pytest.raises(ValueError, match=f"predicts {CLASSES} logits, but num_classes is {CLASSES - 1}"):
        DetrexCriterion(CLASSES - 1)(outputs, targets)


@pytest.mark.skipif(not is_standalone("detrex"), reason="detrex is installed")
def test_detrex_recipes_without_detrex_explain_the_requirement() -> None:
    with pytest.raises(ConfigError, match="add checkouts of detrex and of detectron2 to PYTHONPATH"):
        model_zoo.get_config("dino_deim/deim_dino_r50_4scale_12ep_coco")
