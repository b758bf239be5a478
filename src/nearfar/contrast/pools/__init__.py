"""The pools that are compared: how each is opened, what each is measured at, and what a killed worker
costs."""
