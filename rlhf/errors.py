"""The one exception of this package that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something a person can mend: a file, a row, an option. The message says where it is and what to do next."""
