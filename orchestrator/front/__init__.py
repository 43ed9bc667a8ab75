"""The front: several whole orchestrators, each on its host, behind one API. It stores nothing: hosts do without it."""
