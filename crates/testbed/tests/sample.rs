//! The sample server seen from outside: by the plain client and by rmcp's own, in both eras.

use std::collections::HashSet;

use rmcp::{
    ClientLifecycleMode, ClientServiceExt,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, ProtocolVersion,
    },
    transport::StreamableHttpClientTransport,
};
use serde_json::{Value, json};
use serin_testbed::{
    client::{Client, Era},
    sample::{
        ELICITING_TOOL, LIST_TTL_MS, PAGE_TOOLS, PROGRESS_TOOL, Running, Sample, SampleOptions,
        TASK_TOOL, ToolSet,
    },
};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

async fn sample(version: &str, tools: ToolSet) -> Running {
    Sample::start(SampleOptions::new(version, format!("{version}-a"), tools))
        .await
        .expect("a free port on loopback")
}

async fn client(server: &Running, era: Era) -> Client {
    let mut client = Client::new(&server.url(), era, Some("key-1")).expect("a good URL");
    client.open().await.expect("a server that answers");
    client
}

#[tokio::test]
async fn every_tool_answers_and_says_who_it_is() {
    for (version, tools) in [
        ("v1.5.0", ToolSet::V1),
        ("v2.0.0", ToolSet::V2),
        ("v3.0.0", ToolSet::V3),
    ] {
        let server = sample(version, tools).await;
        for era in ERAS {
            let mut client = client(&server, era).await;
            let mut sessions = HashSet::new();
            for (seed, tool) in (1..).zip(tools.names()) {
                let mut arguments = tools.example(tool, seed).expect("a tool of the set");
                arguments["nonce"] = json!(format!("nonce-{seed}"));
                let answer = client.call(tool, arguments).await.expect("an answer");
                assert!(answer.is_own(), "{tool}: {answer:?}");
                assert!(!answer.is_tool_error(), "{tool}: {answer:?}");
                let content = &answer.result().expect("a result")["structuredContent"];
                assert_eq!(content["version"], version);
                assert_eq!(content["endpoint"], format!("{version}-a"));
                assert_eq!(content["nonce"], format!("nonce-{seed}"));
                assert!(content.get("answer").is_some());
                sessions.insert(content["session"].as_str().map(str::to_owned));
            }
            assert_eq!(sessions.len(), 1);
            assert_eq!(sessions.contains(&None), era == Era::Modern);
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn each_session_has_a_nonce_of_its_own() {
    let server = sample("v1", ToolSet::V1).await;
    let mut nonces = HashSet::new();
    for _ in 0..3 {
        let mut client = client(&server, Era::Legacy).await;
        let answer = client.call("get_brand_voice", json!({})).await.unwrap();
        let content = &answer.result().unwrap()["structuredContent"];
        nonces.insert(content["session"].as_str().unwrap().to_owned());
    }
    assert_eq!(nonces.len(), 3);
}

#[test]
fn the_second_set_is_the_first_and_three_more() {
    let (first, second): (Vec<_>, Vec<_>) =
        (ToolSet::V1.names().collect(), ToolSet::V2.names().collect());
    assert_eq!(first.len(), 9);
    assert_eq!(second.len(), 12);
    let third: Vec<_> = ToolSet::V3.names().collect();
    assert_eq!(third.len(), 16);
    assert_eq!(third[..12], second);
    assert_eq!(first, second[..9]);
}

#[tokio::test]
async fn lists_have_pages_and_cursors_belong_to_their_version() {
    let server = sample("v1", ToolSet::V2).await;
    let other = sample("v2", ToolSet::V2).await;
    for era in ERAS {
        let mut client_one = client(&server, era).await;
        let mut client_two = client(&other, era).await;
        let mut names = Vec::new();
        let mut params = json!({});
        loop {
            let answer = client_one.request("tools/list", params).await.unwrap();
            let result = answer.result().expect("a list");
            let page = result["tools"].as_array().unwrap();
            assert!(page.len() <= PAGE_TOOLS);
            names.extend(
                page.iter()
                    .map(|tool| tool["name"].as_str().unwrap().to_owned()),
            );
            if era == Era::Modern {
                assert_eq!(result["ttlMs"], LIST_TTL_MS);
                assert_eq!(result["cacheScope"], "public");
            }
            let Some(cursor) = result["nextCursor"].as_str() else {
                break;
            };
            params = json!({ "cursor": cursor });
            let refused = client_two
                .request("tools/list", params.clone())
                .await
                .unwrap();
            assert_eq!(refused.error().expect("a refusal")["code"], -32602);
        }
        assert_eq!(names, ToolSet::V2.names().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn elicitation_takes_one_round_in_both_eras() {
    let server = sample("v1", ToolSet::V1).await;
    for era in ERAS {
        let mut client = client(&server, era).await;
        let answer = client
            .call(ELICITING_TOOL, json!({ "tone": "dry" }))
            .await
            .unwrap();
        assert_eq!(answer.rounds, 1, "{era:?}");
        assert_eq!(
            answer.result().unwrap()["structuredContent"]["answer"]["tone"],
            "dry"
        );
    }
}

#[tokio::test]
async fn request_state_opens_only_in_the_version_that_sealed_it() {
    let (one, twin, two) = (
        sample("v1", ToolSet::V1).await,
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V2).await,
    );
    let params = json!({ "name": ELICITING_TOOL, "arguments": { "tone": "dry" } });
    let answer = client(&one, Era::Modern)
        .await
        .request("tools/call", params.clone())
        .await
        .unwrap();
    let result = answer.result().unwrap();
    assert_eq!(result["resultType"], "input_required");
    let mut retry = params;
    retry["requestState"] = result["requestState"].clone();
    retry["inputResponses"] = json!({ "confirm": { "action": "accept", "content": {} } });
    for (server, opens) in [(&one, true), (&twin, true), (&two, false)] {
        let mut client = client(server, Era::Modern).await;
        let answer = client.request("tools/call", retry.clone()).await.unwrap();
        assert_eq!(answer.result().is_some(), opens, "{answer:?}");
    }
    retry["inputResponses"] = json!({ "confirm": { "action": "decline" } });
    let declined = client(&one, Era::Modern)
        .await
        .request("tools/call", retry)
        .await
        .unwrap();
    assert!(declined.is_tool_error());
}

#[tokio::test]
async fn progress_arrives_before_the_answer() {
    let server = sample("v1", ToolSet::V1).await;
    for era in ERAS {
        let mut client = client(&server, era).await;
        let arguments = json!({ "documents": ["a", "b", "c"], "step_ms": 1 });
        let answer = client.call(PROGRESS_TOOL, arguments).await.unwrap();
        let progress: Vec<_> = answer
            .notifications
            .iter()
            .filter(|note| note["method"] == "notifications/progress")
            .map(|note| note["params"]["progress"].as_f64().unwrap())
            .collect();
        assert_eq!(progress, [1.0, 2.0, 3.0], "{era:?}");
        assert!(answer.is_own());
    }
}

#[tokio::test]
async fn a_client_that_knows_tasks_gets_one_and_polls_it() {
    let server = sample("v1", ToolSet::V1).await;
    let mut client = client(&server, Era::Modern).await;
    let meta = json!({ "io.modelcontextprotocol/clientCapabilities": {
        "extensions": { "io.modelcontextprotocol/tasks": {} },
    } });
    let params = json!({
        "name": TASK_TOOL,
        "arguments": { "text": "a wild finch", "nonce": "n-1", "step_ms": 5 },
        "_meta": meta,
    });
    let created = client.request("tools/call", params).await.unwrap();
    let task = created.result().expect("a task");
    assert_eq!(task["resultType"], "task");
    let id = task["taskId"].as_str().expect("its id").to_owned();
    let finished = loop {
        let params = json!({ "taskId": id, "_meta": meta });
        let answer = client.request("tasks/get", params).await.unwrap();
        let task = answer.result().expect("the task").clone();
        if task["status"] != "working" {
            break task;
        }
    };
    assert_eq!(finished["status"], "completed");
    assert_eq!(finished["result"]["structuredContent"]["nonce"], "n-1");
}

#[tokio::test]
async fn wrong_arguments_are_tool_errors_and_unknown_tools_protocol_errors() {
    let server = sample("v1", ToolSet::V1).await;
    for era in ERAS {
        let mut client = client(&server, era).await;
        let answer = client.call("get_entry", json!({ "id": 7 })).await.unwrap();
        assert!(answer.is_tool_error());
        assert!(
            answer
                .result()
                .unwrap()
                .to_string()
                .contains("argument `id`")
        );
        let answer = client.call("detect_gaps", json!({})).await.unwrap();
        assert!(
            answer.error().is_some(),
            "a tool of the other set: {answer:?}"
        );
    }
}

#[tokio::test]
async fn an_ended_session_is_404_and_health_is_told() {
    let server = sample("v1", ToolSet::V1).await;
    let mut one = client(&server, Era::Legacy).await;
    let params = json!({ "name": "get_brand_voice" });
    assert_eq!(
        one.request("tools/call", params.clone())
            .await
            .unwrap()
            .status,
        200
    );
    let session = one.session().expect("a session").to_owned();
    assert!(
        one.close()
            .await
            .unwrap()
            .is_some_and(|status| status.is_success())
    );
    let gone = reqwest::Client::new()
        .post(server.url())
        .header("mcp-session-id", session)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 404);
    let health: Value = reqwest::get(format!("http://{}/health", server.address()))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(health["version"], "v1");
}

#[tokio::test]
async fn a_stopped_server_has_let_go_of_its_port() {
    let server = sample("v1", ToolSet::V1).await;
    let address = server.address();
    // A client that stays connected must not hold it up.
    let mut open = client(&server, Era::Legacy).await;
    server.stop().await;
    assert!(open.call("get_brand_voice", json!({})).await.is_err());
    let again = SampleOptions {
        listen: address,
        ..SampleOptions::new("v1", "a", ToolSet::V1)
    };
    Sample::start(again)
        .await
        .expect("the same port, free again");
}

#[tokio::test]
async fn rmcps_own_client_is_at_home_in_both_eras() {
    let server = sample("v2", ToolSet::V2).await;
    let modes = [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
    ];
    for mode in modes {
        let legacy = mode == ClientLifecycleMode::Initialize;
        let config = ClientConfig::new(
            ClientCapabilities::default(),
            Implementation::new("test", "1.0.0"),
        );
        let transport = StreamableHttpClientTransport::from_uri(server.url());
        let client = config.serve_with_lifecycle(transport, mode).await.unwrap();
        assert_eq!(client.list_all_tools().await.unwrap().len(), 12);
        let arguments = json!({ "id": "entry-1", "nonce": "n-7" });
        let result = client
            .call_tool(
                CallToolRequestParams::new("get_entry")
                    .with_arguments(arguments.as_object().unwrap().clone()),
            )
            .await
            .unwrap();
        let content = result.structured_content.unwrap();
        assert_eq!(content["nonce"], "n-7");
        assert_eq!(content.get("session").is_some(), legacy);
        client.cancel().await.unwrap();
    }
}
