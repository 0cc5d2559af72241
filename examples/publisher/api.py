"""The same from FastAPI, for another program: it shows a token, which is compared in constant time."""

import json
import os
from hmac import compare_digest
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

from wsworker import client
from wsworker.errors import WsworkerError

CONFIG = Path(__file__).with_name("config.yaml")
TOKEN = os.environ["API_TOKEN"]

api = FastAPI()


class News(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=1000)]


@api.post("/news", status_code=204)
async def publish(news: News, authorization: Annotated[str, Header()] = "") -> None:
    if not compare_digest(authorization.encode(), f"Bearer {TOKEN}".encode()):
        raise HTTPException(401, "a token is needed", {"WWW-Authenticate": "Bearer"})
    try:
        await client.apublish("news", json.dumps({"from": "the API", "text": news.text}), config=CONFIG)
    except WsworkerError as error:
        raise HTTPException(503, str(error)) from error
