"""Losses of other self-supervised methods, as pure functions on the embeddings of the global batch."""
