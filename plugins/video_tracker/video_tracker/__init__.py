"""Finds objects in pictures and follows them through videos.

A frame's way: `media` decodes it, `onnx_detector` (behind the protocol in `detection`) finds what is in it, `layouts`
knows how each family of models wants its input and gives its output, `tracking` gives what is found an identity that
lasts. `annotation` draws it, `encoding` makes a video of it. `cuda_session` is the only module that knows of the GPU;
`plugin` is the class whose tools are served.
"""
