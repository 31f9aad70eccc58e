"""Write backbones for other toolboxes, with a certificate that the file computes the same features."""
