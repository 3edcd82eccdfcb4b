"""Figures, one file each: a table of points, a caption, and how they are drawn. Add a file here to add a figure."""
