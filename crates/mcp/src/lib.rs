//! MCP as a gateway sees it: eras, envelope, SSE, response scanner, tool-contract difference. Pure.
