"""The way of a run: who may run now (`admission`), and the run itself (`tool_runner`). Must not know: HTTP,
containers.
"""
