"""Figures, one file each. Add a file here to add a figure.

A figure has `points(run, study)`, the table behind it, and two functions of that table: `caption(frame)` and
`chart(frame)`, an Altair chart, from which PNG, PDF and the page's interactive chart are made. The two are called only
where the table has something to show. Optional: `ORDER`, the figure's place on the page (figures without one follow by
name).
"""
