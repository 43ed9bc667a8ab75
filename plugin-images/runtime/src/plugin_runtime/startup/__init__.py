"""How a plugin is loaded, and why it cannot be: checks, import, construction, `validate()`; failures → reason codes."""
