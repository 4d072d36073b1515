//! rmcp's own client, as agents have it.

use crate::client::Era;
use rmcp::{
    ClientLifecycleMode, ClientServiceExt as _,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, ProtocolVersion,
    },
    transport::{
        StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::Value;

/// Lists all tools of a server and calls one; the names, and the result.
///
/// # Errors
/// In the client's words.
pub async fn list_and_call(
    url: &str,
    era: Era,
    bearer: &str,
    tool: &'static str,
    arguments: &Value,
) -> Result<(Vec<String>, Value), String> {
    let mode = match era {
        Era::Legacy => ClientLifecycleMode::Initialize,
        Era::Modern => ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
    };
    let implementation = Implementation::new("serin-testbed", "1.0.0");
    let config = ClientConfig::new(ClientCapabilities::default(), implementation);
    let transport = StreamableHttpClientTransportConfig::with_uri(url).auth_header(bearer);
    let transport = StreamableHttpClientTransport::from_config(transport);
    let client = config.serve_with_lifecycle(transport, mode).await;
    let client = client.map_err(|error| error.to_string())?;
    let tools = client.list_all_tools().await;
    let tools = tools.map_err(|error| error.to_string())?;
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    let call = CallToolRequestParams::new(tool).with_arguments(arguments);
    let result = client.call_tool(call).await;
    let result = result.map_err(|error| error.to_string())?;
    let names = tools.iter().map(|tool| tool.name.to_string()).collect();
    let result = serde_json::to_value(result).map_err(|error| error.to_string())?;
    Ok((names, result))
}
