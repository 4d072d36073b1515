"""fastmcp 4.x, a client of both eras: fastmcp_v4.py URL legacy|auto"""

import asyncio
import json
import sys

from fastmcp import Client


async def main(url: str, mode: str) -> dict:
    async with Client(url, mode=mode) as client:
        tools, cursor, more = [], None, True
        while more:
            page = await client.list_tools_mcp(cursor=cursor)
            tools += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            more = cursor is not None
        answer = await client.call_tool_mcp("generate_content", {"topic": "tea", "tone": "dry", "nonce": "n-1"})
        refused = await client.call_tool_mcp("generate_content", {"nonce": "n-2"})
        return {
            "protocol": client.protocol_version,
            "tools": tools,
            "answer": answer.structured_content,
            "error": refused.is_error,
        }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
