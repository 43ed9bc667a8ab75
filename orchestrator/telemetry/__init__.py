"""Metrics, structured logs and traces. Only observes: nothing that runs plugins knows it or waits for it."""
