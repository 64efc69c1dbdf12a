"""Data sets: `check_data` checks them without Ray, `read_data` reads each into one array.

spec.py      what is known of a data set before (`DataSpec`) and after (`Target`) it is read
discover.py  data.path -> a filesystem, sorted files and one format
schema.py    the rules of every format: ranks, channels first, finite numbers, class ids
images.py    encoded images, as folders, tars and parquet columns hold them
columns.py   Arrow columns -> numpy arrays
npz.py       scikit-learn's digits and .npz
parquet.py, folder.py, tars.py
ingest.py    `check_data` and `read_data`
"""

from flowpairs.pipeline.data.ingest import check_data, read_data
from flowpairs.pipeline.data.spec import DataSpec, Target

__all__ = ["DataSpec", "Target", "check_data", "read_data"]
