"""The health API's answers, a pure view of registry records. Must not know: engines, containers, whatever can wait."""
