"""The instances: starts, watches, ends and removes them. `Fleet` has all plugins, `PluginSupervisor` one, alone decides
for it and has the table of its states; `InstanceDriver` has one instance. Must not know: HTTP, callers.
"""
