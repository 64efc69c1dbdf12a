"""The report: pair stores and training runs in, one self-contained HTML page out. It reads files and needs no Ray.

collect.py   directories -> stores.py's StoreSummary and runs.py's Run
verdict.py   runs -> which of them won which figure, in words
theme.py     the palette, and matplotlib figures as inline SVG that follows the page's colours
figures.py   curves and scatter plots
pictures.py  grids of samples and pairs as PNG
terminal.py  tables for the terminal
page.py      all of it -> HTML, through report.html.j2 and report.css
"""
