"""Finds motion between two pictures or in a video.

`uploads` decodes pictures and videos, `regions` finds regions of changed pixels (pure), `options` checks the values of
options, `plugin` is the class with the tools.
"""
