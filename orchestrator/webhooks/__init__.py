"""Webhooks: signed messages about runs and plugins, to the addresses that the operator configures. Decisions (`config`,
`messages`, `signature`, `schedule`) are apart from effects (`sender`, `dispatcher`, which are loaded where a webhook is
configured). Must not know: HTTP's server side, engines.

The life of a message: a write of the history is committed with its deliveries (`messages.WebhookOutbox`), in one
transaction, so none is lost and none is made twice. The dispatcher delivers what is pending, one after the other for
each webhook and plugin, and the history notes what has become of each attempt.
"""
