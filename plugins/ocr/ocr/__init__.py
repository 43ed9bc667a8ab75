"""Reads the text of pictures with Tesseract.

`pictures` decodes an upload safely, `engine` is the only module that knows Tesseract, `words` turns Tesseract's table
into words and text (pure), `plugin` is the class with the tools.
"""
