"""Who may call the API: keys, roles, refusals ahead of any route. Must not know: HTTP frameworks, plugins."""
