"""The instances: starts (`bring_up`), observes (`watch`), removes (`teardown`) and adopts them (`adoption`), and
follows their logs (`logs`). `Fleet` has all plugins; `PluginSupervisor` has one and decides for it;
`InstanceDriver` has one instance, which only its `end` ends. Must not know: HTTP, callers.
"""
