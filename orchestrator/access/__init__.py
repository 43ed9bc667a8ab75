"""Who may call the API: keys, roles, and what is refused before any route. Must not know: HTTP frameworks, plugins."""
