"""The one base of errors that a person mends: the CLI prints their text and exits 2."""


class MendableError(Exception):
    """Config, bundle, database or input that cannot mend itself; the text says what to do."""
