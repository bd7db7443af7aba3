"""Small detectors of torchvision, with random weights that find boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

detection = pytest.importorskip("torchvision.models.detection")
SIZE = (64, 80)  # the networks work at 96 × 120 or 96 × 96, and return boxes of 64 × 80
OVERLAP = 0.5


class Pyramid(nn.Module):
    """Two maps, of strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 32
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x)
        return {"0": fine, "1": self.coarse(fine)}


def made(kind: str, classes: int = 4) -> nn.Module:
    """A small detector of four classes, whose random weights find boxes."""
    torch.manual_seed(0)
    anchors = detection.anchor_utils.AnchorGenerator
    given = {"min_size": 96, "max_size": 160, "score_thresh": 0.05, "nms_thresh": OVERLAP, "topk_candidates": 50}
    if kind == "retinanet":
        sizes = anchors(((16, 24), (32, 48)), ((0.5, 1.0, 2.0),) * 2)
        net = detection.RetinaNet(Pyramid(), classes, anchor_generator=sizes, **given)
    elif kind == "fcos":
        net = detection.FCOS(Pyramid(), classes, anchor_generator=anchors(((16,), (32,)), ((1.0,),) * 2), **given)
    else:
        body = Pyramid()
        body.out_channels = [32, 32]  # type: ignore[assignment]
        boxes = detection.anchor_utils.DefaultBoxGenerator([[2], [2, 3]])
        net = detection.ssd.SSD(
            body, boxes, (96, 96), classes, score_thresh=0.05, nms_thresh=OVERLAP, topk_candidates=50
        )
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
    for name, parameter in net.named_parameters():
        if name.endswith("cls_logits.bias"):
            nn.init.constant_(parameter, -1.0)
    return net.eval()  # type: ignore[no-any-return]


def two_stages(classes: int = 5, more: str = "") -> nn.Module:
    """A small Faster R-CNN, the first class of which is no object; its random weights find regions and boxes.

    `more`: what it returns besides boxes, "masks" or "keypoints".
    """
    torch.manual_seed(0)
    anchors = detection.anchor_utils.AnchorGenerator(((16, 24), (32, 48)), ((0.5, 1.0, 2.0),) * 2)
    pooled = detection.faster_rcnn.MultiScaleRoIAlign(["0", "1"], 3, 2)
    given = {
        "min_size": 96, "max_size": 160, "rpn_anchor_generator": anchors, "box_roi_pool": pooled,
        "box_head": detection.faster_rcnn.TwoMLPHead(32 * 9, 24),
        "box_predictor": detection.faster_rcnn.FastRCNNPredictor(24, classes),
        "rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 30, "box_score_thresh": 0.05,
        "box_nms_thresh": OVERLAP,
    }  # fmt: skip
    if more == "masks":
        net = detection.MaskRCNN(
            Pyramid(), **given, mask_roi_pool=detection.faster_rcnn.MultiScaleRoIAlign(["0", "1"], 4, 2),
            mask_head=detection.mask_rcnn.MaskRCNNHeads(32, (8,), 1),
            mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(8, 8, classes),
        )  # fmt: skip
    elif more == "keypoints":
        net = detection.KeypointRCNN(
            Pyramid(), **given, keypoint_roi_pool=detection.faster_rcnn.MultiScaleRoIAlign(["0", "1"], 4, 2),
            keypoint_head=detection.keypoint_rcnn.KeypointRCNNHeads(32, (8,)),
            keypoint_predictor=detection.keypoint_rcnn.KeypointRCNNPredictor(8, 3),
        )  # fmt: skip
    else:
        net = detection.FasterRCNN(Pyramid(), **given)
    for name, part in net.named_modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02 if name.endswith("bbox_pred") else 0.4)
    return net.eval()  # type: ignore[no-any-return]
