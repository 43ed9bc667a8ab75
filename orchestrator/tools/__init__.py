"""Runs: which are admitted (`admission`, `run_queues`, `refusals`), how they are made (`tool_runner`, `live_run`), how
those of an earlier orchestrator go on (`resumption`), and what others see of them (`run_lookup`, `result_store`,
`run_observer`). Must not know: HTTP, containers.
"""
