"""Errors whose text is meant for a person. Knows nothing of HTTP or of JAX."""


class VllmJaxError(Exception):
    """Base of all errors this package raises on purpose."""


class InvalidRequestError(VllmJaxError, ValueError):
    """A request cannot be served as it is. The server answers 400; the offline API raises.

    ``param`` names the offending field (OpenAI's ``error.param``), or is None.
    """

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param


class ConfigError(VllmJaxError, ValueError):
    """A flag, model config or checkpoint cannot be honoured. A start ends with this one readable line."""


class CheckpointError(ConfigError):
    """A checkpoint is missing, broken, or has tensors that do not match the model; the text names them."""


class OverloadedError(VllmJaxError, RuntimeError):
    """More requests wait than the server was told to queue. The server answers 503; trying later helps."""


class EngineDeadError(VllmJaxError, RuntimeError):
    """The engine loop has failed; requests in flight have failed with it."""


class RecompilationError(VllmJaxError, RuntimeError):
    """A device program was compiled after the server was ready, and the server was told not to."""
