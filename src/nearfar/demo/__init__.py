"""Something real to download, for the demo and for tests: drawn pictures, a server for them, and the tour."""
