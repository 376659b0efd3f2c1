"""Explanations over HTTP, from one verbalizer that stays open, on this machine alone.

In: what `runs.opened` opened; requests with features, vectors or prompts. Out: explanations with what each rests on.
Refuses requests from elsewhere, above its bounds, and while as many wait as may. FastAPI, uvicorn and prometheus_client
are imported by `app` alone.
"""
