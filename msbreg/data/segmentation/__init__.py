"""Images with a label per pixel: the interface, and one reader per layout."""
