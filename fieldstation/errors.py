"""The bases of errors that are one line for a person: the CLI prints them and exits 2 or 1."""


class MendableError(Exception):
    """Config, bundle, database or input that cannot mend itself; the text says what to do."""


class PassingError(MendableError):
    """A disk, lock or server that is not to be had just now: the same command may succeed later.

    It exits 1, after which a supervisor tries again; 2 would end a service for good.
    """
