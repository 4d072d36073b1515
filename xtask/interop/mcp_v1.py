"""The `mcp` package 1.x, a legacy client: mcp_v1.py URL"""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


async def main(url: str) -> dict:
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        hello = await session.initialize()
        tools, cursor, more = [], None, True
        while more:
            page = await session.list_tools(cursor=cursor)
            tools += [tool.name for tool in page.tools]
            cursor = page.nextCursor
            more = cursor is not None
        answer = await session.call_tool("generate_content", {"topic": "tea", "tone": "dry", "nonce": "n-1"})
        refused = await session.call_tool("generate_content", {"nonce": "n-2"})
        return {
            "protocol": str(hello.protocolVersion),
            "tools": tools,
            "answer": answer.structuredContent,
            "error": refused.isError,
        }


print(json.dumps(asyncio.run(main(sys.argv[1]))))
