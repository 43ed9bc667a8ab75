"""Detects objects in pictures and tracks them through videos.

The path of a frame: `media` decodes it, `onnx_detector` or `torch_detector` (behind the protocol in `detection`; both
detect in `batches`) finds objects, `layouts` knows each model family's input and output, `tracking` gives each object a
lasting id, `annotation` draws the tracks, `encoding` makes a video. Only `cuda_session` and `torch_detector` know the
GPU; `plugin` is the class with the tools.
"""
