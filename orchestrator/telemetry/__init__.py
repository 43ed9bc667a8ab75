"""What the orchestrator tells of itself to monitoring: metrics, structured logs, traces. It watches; nothing that runs
plugins knows it or waits for it.
"""
