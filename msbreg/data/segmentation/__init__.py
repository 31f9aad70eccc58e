"""Images with a label or a depth per pixel: the interfaces, and one reader per layout."""
