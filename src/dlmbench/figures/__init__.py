"""Figures, one file each. Add a file here to add a figure.

A figure has `points(run, study)`, the table behind it, and three functions of that table: `caption(frame)`,
`draw(frame, figure)` with matplotlib for PNG and PDF, and `interactive(frame)` with plotly for the page. The three are
called only where the table has something to show. Optional: `page_caption(frame)`, where the page draws more than the
picture does; `ORDER`, the figure's place on the page (figures without one follow by name).
"""
