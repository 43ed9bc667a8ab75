"""The supervisor, PID 1 of the container: serves the control socket, reaps, detects a hung worker. Never loads plugin
code, nor any module of `worker`, `startup` and `tools`.
"""
