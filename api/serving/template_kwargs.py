"""``chat_template_kwargs`` that say what fields of the request say."""

from __future__ import annotations

from pydantic import ValidationError

from api.errors import bad_request
from api.protocol.chat import ChatTemplateFields

_FIELDS = ("add_generation_prompt", "continue_final_message", "documents")


def adopt_template_kwargs(body: ChatTemplateFields) -> None:
    """Makes them the request's own fields (mutates ``body``): more than the template goes by these.

    Raises:
        ApiError: 400, a value is none that the field may have, or the request says something else itself.
    """
    kwargs = dict(body.chat_template_kwargs or {})
    for name in [name for name in _FIELDS if name in kwargs]:
        try:
            value = getattr(ChatTemplateFields.model_validate({name: kwargs.pop(name)}), name)
        except ValidationError:
            raise bad_request(
                f"chat_template_kwargs.{name} has a value that the field {name} cannot have.",
                "chat_template_kwargs",
            ) from None
        given = getattr(body, name)
        if value is not None and given is not None and value != given:
            raise bad_request(
                f"{name} says something else than chat_template_kwargs.{name}: send one of them.",
                "chat_template_kwargs",
            )
        if given is None:
            setattr(body, name, value)
    if body.chat_template_kwargs is not None:
        body.chat_template_kwargs = kwargs
