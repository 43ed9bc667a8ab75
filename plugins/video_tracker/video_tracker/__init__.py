"""Detects objects in pictures and tracks them through videos.

The path of a frame: `media` decodes it, `onnx_detector` (behind the protocol in `detection`) finds objects, `layouts`
knows each model family's input and output, `tracking` gives each object a lasting id, `annotation` draws the tracks,
`encoding` makes a video. Only `cuda_session` knows the GPU; `plugin` is the class with the tools.
"""
