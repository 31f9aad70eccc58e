"""Drawings show images, the truth and the predictions in the same colors."""

import numpy as np

from msbreg.data.segmentation.map_sources import open_label_maps
from tests.msbreg.data.segmentation.map_trees import folders_tree, save_map
from transfer.drawing.segmentation_sheets import colored, segmentation_sheet


def test_a_sheet_shows_every_image_of_a_small_split_with_truth_and_prediction(tmp_path):
    source = open_label_maps(str(folders_tree(tmp_path / "data", train=1, val=3)), "val")
    for i in range(3):
        found = np.full_like(source.label(i), 2)  # everything is blue
        save_map(tmp_path / f"{i}.png", found)
    sheet = segmentation_sheet(source, lambda i: tmp_path / f"{i}.png").convert("RGB")
    colors = {color for _, color in sheet.getcolors(1 << 20)}
    blue, void = (tuple(colored(np.array([[k]], np.uint8))[0, 0].tolist()) for k in (2, 255))
    assert {blue, void} <= colors
    # Three predictions, each at least as large as three quarters of a square.
    count = {color: n for n, color in sheet.getcolors(1 << 20)}[blue]
    assert count >= 3 * 0.75 * 176**2


def test_void_is_gray_and_the_background_black():
    assert colored(np.array([[0, 255]], np.uint8)).tolist() == [[[0, 0, 0], [160, 160, 160]]]
