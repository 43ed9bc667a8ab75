"""The Model Context Protocol over all tools: `/mcp` in the orchestrator, and a bridge on stdin and stdout.

`server` has the protocol's methods over a `Backend`: `local` runs tools in this process, `remote` by the HTTP API.
Nothing here is loaded before the first request but `endpoint` and `names`, which do without the package `mcp`.
"""
