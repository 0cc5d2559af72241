"""The servers beside wsworker, in the order of each round."""

from __future__ import annotations

from benchmarks.peers import granian_asgi, picows_listener, socketify_app, uvicorn_asgi, websockets_asyncio

PEERS = (
    uvicorn_asgi.SERVER,
    websockets_asyncio.SERVER,
    granian_asgi.SERVER,
    picows_listener.SERVER,
    socketify_app.SERVER,
)
