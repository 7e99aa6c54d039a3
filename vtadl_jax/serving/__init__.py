"""Serves trained runs at the line: over HTTP, and to programs that exchange files.

`models` opens runs, `batching` scores images one batch at a time, `answers` turns predictions into
JSON. `app` and `http` need the extra `serve`; `watcher` does not. Trains nothing, draws no reports.
"""
