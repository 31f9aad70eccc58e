"""Whether the score of a published checkpoint is reproduced: the bands, and which one a file belongs to."""
