"""HTTP: routes, and what comes out of them. Must not know: containers, engines."""
