"""The HTTP API: routes, middleware, responses. Must not know: containers, engines."""
