"""Array functions with fast implementations; each has a slow twin written from its definition.

Pure JAX: no files, no configuration, no parameters of their own.
"""
