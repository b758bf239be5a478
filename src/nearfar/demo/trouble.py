"""The one error of the demo."""


class Trouble(Exception):
    """The demo cannot go on: a sentence for a person."""
