"""Raw images → sharded array records that any tensorflow-datasets program reads, TensorFlow or not.

`base` is the builder of all sets, the files named after a set say only what is its own, `build`
makes what is missing. `prepared`, one room up, reads the records.
"""
