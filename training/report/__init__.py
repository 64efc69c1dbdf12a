"""The report on pair stores and training runs: one self-contained HTML page, made from files without Ray.

collect.py   directories -> StoreSummary (stores.py) and Run (runs.py)
verdict.py   runs -> the best run on each measure, in numbers and in words
theme.py     the palette, and matplotlib figures as inline SVG that follows the page's colours
figures.py   curves and scatter plots
pictures.py  grids of samples and pairs as PNG
terminal.py  tables for the terminal
page.py      all of these -> HTML, by report.html.j2 and report.css
"""
