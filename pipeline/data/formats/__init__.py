"""One module per family of formats: each gives rows as they are stored.

reader.py         what a format has to be able to do (`Reader`), and rows as they are stored (`Chunk`)
folder.py         folders of images or of .npy arrays, a row a file
array_files.py    .npz, .npy, .pt, .safetensors, scikit-learn's digits
stored_arrays.py  arrays in files, read a few rows at a time
npy_header.py     the headers of .npy arrays
tables.py         parquet and Arrow
text_tables.py    CSV and TSV
tars.py           WebDataset tars
cells.py          .h5ad
"""

from collections.abc import Mapping

from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import Site
from flowpairs.pipeline.data.formats.array_files import DigitsReader, NpyReader, NpzReader, TensorReader
from flowpairs.pipeline.data.formats.cells import CellReader
from flowpairs.pipeline.data.formats.folder import ArraysReader, FolderReader
from flowpairs.pipeline.data.formats.reader import Chunk, Reader
from flowpairs.pipeline.data.formats.tables import ArrowReader, ParquetReader
from flowpairs.pipeline.data.formats.tars import TarReader
from flowpairs.pipeline.data.formats.text_tables import CsvReader
from flowpairs.pipeline.data.spec import Format

READERS: Mapping[Format, type[Reader]] = {
    "digits": DigitsReader,
    "npz": NpzReader,
    "npy": NpyReader,
    "tensors": TensorReader,
    "parquet": ParquetReader,
    "arrow": ArrowReader,
    "tars": TarReader,
    "csv": CsvReader,
    "h5ad": CellReader,
    "folder": FolderReader,
    "arrays": ArraysReader,
}


def reader_of(config: DataConfig, form: Format, site: Site, columns: tuple[str, ...] = ()) -> Reader:
    """Make the reader of a data set."""
    return READERS[form](config, site, columns)


__all__ = ["Chunk", "Reader", "reader_of"]
