"""The error grammar: ``Invalid NAME=VALUE: expected … (where). Hint: …``.

Every message that a user can cause is one sentence of this form, so that the offending name, its value, the place
and the way out are always in the same spot.
"""

from __future__ import annotations

__all__ = ["BrainlabError", "ConfigError", "InvalidFile", "InvalidValue", "LeakError", "ShapeMismatch", "sentence"]

_LONGEST_VALUE = 200


def sentence(name: str, value: object, expected: str, *, where: str | None = None, hint: str | None = None) -> str:
    """Write one error in the house grammar.

    >>> sentence("window_s", 0, "expected a positive number of seconds", hint="10.24 is the tokenizer's window")
    "Invalid window_s=0: expected a positive number of seconds. Hint: 10.24 is the tokenizer's window."
    """
    shown = "null" if value is None else str(value)
    if len(shown) > _LONGEST_VALUE:  # the end of a path is its file's name
        shown = shown[: _LONGEST_VALUE // 4] + "…" + shown[1 - 3 * _LONGEST_VALUE // 4 :]
    text = f"Invalid {name}={shown}: {expected.rstrip('.')}"
    if where:
        text += f" ({where})"
    text += "."
    if hint:
        text += f" Hint: {hint if hint.endswith(('.', '?')) else hint + '.'}"
    return text


class BrainlabError(Exception):
    """Base of every error that a running experiment raises on purpose (exit code 1)."""


class InvalidValue(BrainlabError, ValueError):
    """A value that cannot be used.

    Args:
        name: the offending key or argument.
        value: what it holds.
        expected: clause that starts with "expected", "unknown", "missing" …
        where: file:line, file, or "command line".
        hint: the way out.
    """

    def __init__(
        self, name: str, value: object, expected: str, *, where: str | None = None, hint: str | None = None
    ) -> None:
        self.name, self.value, self.expected, self.where, self.hint = name, value, expected, where, hint
        super().__init__(sentence(name, value, expected, where=where, hint=hint))

    def because_of(self, key: str | None = None, *, hint: str | None = None) -> InvalidValue:
        """The same error, also naming the configuration key that led to it, and the way out where there was none.

        >>> str(InvalidFile("npy", "eeg.npy", "expected a complete pickle").because_of("data.things_root"))
        'Invalid npy=eeg.npy: expected a complete pickle (data.things_root).'
        """
        where = ", ".join(filter(None, (self.where, key))) or None
        return type(self)(self.name, self.value, self.expected, where=where, hint=self.hint or hint)

    def __reduce__(self) -> tuple[object, ...]:
        value = self.value if self.value is None else str(self.value)
        return (_restore, (type(self), self.name, value, self.expected, self.where, self.hint))


class InvalidFile(InvalidValue):
    """A file that is missing, truncated, of another layout, or unsafe to read."""


class ShapeMismatch(InvalidValue):
    """Arrays or settings whose sizes do not fit together."""


class LeakError(InvalidValue):
    """A split in which one group stands in two parts."""


class ConfigError(SystemExit):
    """A configuration or usage error: nothing was started, exit code 2.

    It derives from ``SystemExit`` because Hydra turns an ``Exception`` raised in a callback into a warning.
    """

    def __init__(
        self,
        name: str,
        value: object,
        expected: str,
        *,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.name, self.value = name, value
        self.message = sentence(name, value, expected, where=where, hint=hint)
        super().__init__(2)

    def __str__(self) -> str:
        return self.message


def _restore(
    kind: type[InvalidValue], name: str, value: str | None, expected: str, where: str | None, hint: str | None
) -> InvalidValue:
    return kind(name, value, expected, where=where, hint=hint)
