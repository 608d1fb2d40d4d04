"""The errors that a user can mend: their message says all, in one line."""


class UserError(ValueError):
    """An error that a user can mend.

    Commands end with its message in one line and status 1, without a traceback. The
    message names the file, field or rank, what was found and what was expected.
    """


class ConfigError(UserError):
    """A field or value that cannot be used; the message names the field."""
