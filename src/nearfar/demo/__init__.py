"""Something real to download, for the demo and for tests: pictures, and a server that shows them."""
