"""A backbone written for other tool boxes, each file with a certificate that it computes the same."""
