"""What a call, a start and an idle plugin cost, measured beside what they would cost without the orchestrator.

`python -m benchmarks` (tests/ on the path), or `make bench`. Not collected by pytest.
"""
