"""What a model's answer says beside its text: reasoning and calls of tools, read while it is written."""
