"""Fine-tuning of a classifier: the network, its training and its selection."""
