"""What data sets add to COCO's layout: keypoints, and LVIS's federation of annotations."""
