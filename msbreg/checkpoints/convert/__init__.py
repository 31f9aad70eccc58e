"""Write backbones for other toolboxes, each file with a certificate that it computes the same."""
