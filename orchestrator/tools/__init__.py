"""The way of a run: who may run now (`admission`, `run_queues`, `idempotency_keys`), why not (`refusals`), the run
(`live_run`, `tool_runner`), its end on demand (`cancelling`), what was left (`resumption`), what others see of it
(`run_lookup`, `result_store`, `run_observer`). Must not know: HTTP, containers.
"""
