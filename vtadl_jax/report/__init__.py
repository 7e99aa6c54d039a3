"""Writes the files of a report: pages, tables, pictures. Reads results and computes none."""
