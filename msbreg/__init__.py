"""The ground that pre-training and transfer both stand on; it knows nothing of protocols."""

__version__ = "0.1.0"
