"""The worker process: loads the plugin, serves the tool socket, executes the tools. Knows nothing of `supervising`."""
