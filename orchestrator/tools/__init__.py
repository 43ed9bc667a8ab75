"""Runs: which are admitted (`admission`, `run_queues`, `refusals`), how they are made (`tool_runner`, `live_run`), which
are resumed (`resumption`), what others see of them (`run_lookup`, `result_store`, `run_observer`). Must not know: HTTP,
containers.
"""
