"""The client of the runtime protocol (`plugin-images/runtime/PROTOCOL.md`): requests (`client`), status objects
(`status`, `sanitize`), and HTTP/1.1 below them (`pool`, `dial`, `http_connection`, `http_message`). Must not know:
runs, instances, verdicts.
"""
