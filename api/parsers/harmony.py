"""OpenAI's harmony format of gpt-oss: an answer is a sequence of messages, each in a channel.

    <|channel|>analysis<|message|>I need the weather.<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{…}<|call|>
    <|start|>assistant<|channel|>final<|message|>It is sunny.<|return|>

"analysis" is reasoning; "final", and "commentary" to nobody, are for the reader; a message to
``functions.NAME`` is a call of the tool NAME. The recipient may also stand before the channel. Source: the
guide "OpenAI harmony response format" (cookbook.openai.com/articles/openai-harmony) and
github.com/openai/harmony.
"""

from __future__ import annotations

from api.parsers.events import CallEnd, CallStart, Content, Event, Parse, Reasoning
from api.parsers.json_calls import MAX_NAME, arguments
from api.parsers.source import Source

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
CONSTRAIN, RETURN, CALL = "<|constrain|>", "<|return|>", "<|call|>"
MARKERS = (START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL)
ENDS = (END, RETURN, CALL, START)
FUNCTIONS = "functions."
MAX_HEADER = 2 * MAX_NAME


def harmony(source: Source, *, calls: bool = True) -> Parse[None]:
    """Reads an answer that continues ``<|start|>assistant``. Without ``calls`` these are content too.

    Text that is in no message is content, as it stands.
    """
    while True:
        source.mark()
        header = yield from source.text_before(MESSAGE, limit=MAX_HEADER)
        if header is None:
            cut_off = len(source.rest) <= MAX_HEADER and source.rest.startswith((START, CHANNEL))
            source.forget()
            if not cut_off:
                yield from source.remainder()
            return
        channel, recipient = _read_header(header)
        if not channel and not recipient and header.strip():
            source.rewind()
            yield from source.until([MESSAGE])
            yield Content(MESSAGE)
        else:
            source.forget()
            yield from source.accept(MESSAGE)
        if calls and recipient.startswith(FUNCTIONS) and len(recipient) > len(FUNCTIONS):
            yield CallStart(recipient.removeprefix(FUNCTIONS))
            yield from source.skip_space()
            yield CallEnd((yield from arguments(source, "<|")))
            yield from source.until(ENDS, _nothing)
        else:
            yield from source.until(ENDS, Reasoning if channel == "analysis" else Content)
        if not (yield from source.peek()):
            return


def _read_header(header: str) -> tuple[str, str]:
    """The channel and the recipient in ``assistant to=X<|channel|>Y to=X <|constrain|>json``; "" for none."""
    _, _, behind = header.rpartition(CHANNEL)
    channel = behind.split(CONSTRAIN)[0].split() if CHANNEL in header else []
    recipients = [word[3:] for word in header.replace("<|", " <|").split() if word.startswith("to=")]
    return channel[0] if channel else "", recipients[-1] if recipients else ""


def _nothing(text: str) -> Event:
    return Content("")
