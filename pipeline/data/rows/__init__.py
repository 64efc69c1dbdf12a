"""Rows of a data set, read by id, whatever its size: in parts on disk, in the dtype in which they came.

rows.py        `Rows`: the data of some ids, as they are stored or in model space
row_set.py     the files of a row set: parts, labels, weights, times, and the manifest with all hashes
make.py        a data set -> a row set, part by part, in this process or by Ray Data
stage.py       tasks of one kind, in this process or by Ray Data
local_copy.py  one local copy a node of a file at a URL
"""
