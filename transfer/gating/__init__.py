"""Whether a network learned anything: the images, the statistics and the verdict of ``transfer/gate.py``."""
