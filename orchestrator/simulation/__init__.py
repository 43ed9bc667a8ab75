"""The orchestrator of the testing image: the orchestrator as it is, with faults on demand and GPUs that are not there.

Owns: what is made to go wrong, and how it is marked. Nothing else imports it but `testing`, and the image of the
orchestrator does not have it: see `orchestrator/testing/README.md`.
"""
