"""Grammars over tokens: what a sequence may sample next so that its text has the form it was asked for.

StructuredOutput -> source -> compiler -> Grammar -> start() -> GrammarState, one a sequence
                                                                consume(token), mask
"""
