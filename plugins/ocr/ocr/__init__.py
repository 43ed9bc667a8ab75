"""Reads the text of pictures with Tesseract.

`pictures` turns an upload into a picture that is safe to read, `engine` is the only module that knows Tesseract,
`words` makes words and text of what Tesseract found (pure), `plugin` is the class whose tools are served.
"""
