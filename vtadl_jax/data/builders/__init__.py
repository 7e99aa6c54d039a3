"""Converts raw images to sharded array records, which tensorflow-datasets reads without TensorFlow.

`base` is the builder of all data sets, the modules of single sets hold only their own facts,
`build` makes the missing records. `sources/prepared.py` reads the records.
"""
