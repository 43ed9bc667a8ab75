"""What runs in the orchestrator's own image before and beside it. Light, and apart from everything else: the health
check runs every few seconds.
"""
