"""Container engines: one narrow protocol (`engine`), Docker behind it (`docker_engine`), and a fake (`memory`).

Owns: the types that a container is specified and described by (`spec`), and where its runtime is reached (`endpoint`).
Must not know: plugins, manifests, lifecycle states.
"""
