"""From a request body to an answer: prompts, parameters, streams, logprobs, usage."""
