"""The HTTP API. A request passes `http_protocol`, `middleware` and one of the routers (`*_router`). Must not know:
containers, engines.
"""
