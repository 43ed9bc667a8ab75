"""Reads the text of pictures with Tesseract.

`pictures` decodes an upload safely, `engine` is the only module that knows Tesseract, `words` makes words and text of
Tesseract's table (pure), `plugin` is the class with the tools.
"""
