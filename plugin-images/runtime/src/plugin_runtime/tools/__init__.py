"""Tools as callers see them: schemas from type hints, arguments from requests, results as JSON. Executes no tool."""
