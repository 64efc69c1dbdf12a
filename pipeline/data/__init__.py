"""Data sets as sources: what lies at `data.path`, checked, divided into pieces, and read as uniform rows.

`check_data` finds what there is (a `DataSpec`), `list_pieces` divides it, and each piece is read by `read_piece` by
itself, in any process, in batches of the dtype in which rows are kept. Nothing in a file is ever executed or unpickled.

spec.py      what is known of a data set before it is read (`DataSpec`), and its pieces
discover.py  data.path -> a filesystem, sorted files and one format
formats/     a reader for each family of formats: rows as they are stored
schema.py    how an array's rank is read, in which dtype rows are kept, finite numbers
labels.py    labels of any type -> class ids and names
images.py    encoded images
columns.py   Arrow columns -> rows as they are stored
uniform.py   rows as they are stored -> rows of one shape and dtype; rows that cannot be used
check.py     `check_data`, `describe`
pieces.py    `files_of`, `count_rows`, `list_pieces`, `read_piece`
rows/        the data set that is read: its rows by id, in memory or as a set of files
"""

from flowpairs.pipeline.data.check import check_data, describe
from flowpairs.pipeline.data.pieces import count_rows, files_of, list_pieces, read_piece
from flowpairs.pipeline.data.spec import Bad, Batch, DataSpec, FilePart, Piece
from flowpairs.pipeline.data.uniform import refusal

__all__ = [
    "Bad",
    "Batch",
    "DataSpec",
    "FilePart",
    "Piece",
    "check_data",
    "count_rows",
    "describe",
    "files_of",
    "list_pieces",
    "read_piece",
    "refusal",
]
