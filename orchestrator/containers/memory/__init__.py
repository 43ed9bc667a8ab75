"""`MemoryEngine`, a container engine without containers: the fake that ships beside the real one."""
