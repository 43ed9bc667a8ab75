"""What starts containers: one narrow protocol (`engine`), Docker behind it (`docker_engine`), and a fake
(`memory_engine`).

Owns: the words for a container (`spec`) and the way to ask for one. Must not know: plugins, manifests, lifecycle
states.
"""
