"""HTTP/1.1 as the runtime speaks it: heads of messages, the server's side of a connection. Knows no tool, no status."""
