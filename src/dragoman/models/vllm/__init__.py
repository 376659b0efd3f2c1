"""vLLM says a verbalizer's words: the room where it is imported, started, compared with the plain loop and asked.

In: a model that transformers opened, what its contract feeds. Out: token ids and log-probabilities of each row. Refuses
what vLLM cannot be handed as embeddings of a prompt, and a vLLM that says something else than the plain loop.
"""
