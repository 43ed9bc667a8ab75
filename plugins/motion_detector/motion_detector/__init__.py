"""Finds what moves, between two pictures or all along a video.

`uploads` turns an upload into pictures, `regions` turns what changed into regions (pure), `options` says which values
make sense, `plugin` is the class whose tools are served.
"""
