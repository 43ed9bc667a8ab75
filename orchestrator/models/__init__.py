"""Model files that are fetched: one content-addressed store for all plugins, and the pull that fills it.

A file is known by its SHA-256 alone, so plugins share it and any address that has these bytes will do.

- `sources`: which addresses are allowed, and how they are shown without their credentials (pure)
- `plan`: what to fetch, what may be removed, how a transfer goes on (pure)
- `store`: the files, those that are not complete yet, and who fetches them now
- `transfer`: one transfer from one address
- `pull`: a file from its addresses into the store: retries, mirrors, space, several pulls at once

Must not know: manifests, containers, states, HTTP of ours.
"""
