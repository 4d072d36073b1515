//! The sample's MCP side: one handler for both eras.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams,
        ContentBlock, CreateTaskResult, ElicitRequest, ElicitRequestParams, ElicitationAction,
        ElicitationSchema, GetTaskParams, GetTaskResult, Implementation, InitializeRequestParams,
        InitializeResult, InputRequest, InputRequests, InputRequiredResult, JsonObject,
        ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion,
        RequestStateCodec, ServerCapabilities, ServerConfig, Tool, UpdateTaskParams,
    },
    service::RequestContext,
    task_manager::{TaskExit, TaskManager, TaskOptions},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tools::{
    ELICITING_TOOL, PROGRESS_TOOL, Spec, TASK_TOOL, ToolSet, documents, integer, text,
};

/// How long a list may be cached, in milliseconds. Long and public, so that a gateway that must shorten it is seen to do so.
pub const LIST_TTL_MS: u64 = 300_000;
/// Tools on one page of `tools/list`: small enough that every list has a cursor.
pub const PAGE_TOOLS: usize = 5;

/// A step of the tools that take their time is at most this long, and an upload has at most so many of them.
const STEP_MS_MAX: u64 = 1_000;
const STEPS_MAX: usize = 50;
/// How often a client is told to ask after a task.
const TASK_POLL_MS: u64 = 20;
/// The key of the one question that the sample asks.
const QUESTION: &str = "confirm";

/// What all sessions of one server share.
pub(super) struct Shared {
    pub(super) version: String,
    pub(super) endpoint: String,
    pub(super) tools: ToolSet,
    tasks: TaskManager,
    codec: RequestStateCodec,
}

impl Shared {
    pub(super) fn new(version: String, endpoint: String, tools: ToolSet) -> Self {
        // Endpoints of one version open each other's state, as replicas with one secret do; other versions must not.
        let key = format!("sample server, sealing key of version {version:>32}");
        Self {
            version,
            endpoint,
            tools,
            tasks: TaskManager::new(),
            codec: RequestStateCodec::new_unchecked(key),
        }
    }

    pub(super) fn shutdown(&self) {
        self.tasks.shutdown();
    }

    /// Says who answered, beside the answer itself.
    fn signed(&self, session: Option<&str>, arguments: &JsonObject, answer: &Value) -> Value {
        let mut content = json!({
            "version": self.version,
            "endpoint": self.endpoint,
            "answer": answer,
        });
        if let Some(session) = session {
            content["session"] = session.into();
        }
        if let Some(nonce) = arguments.get("nonce") {
            content["nonce"] = nonce.clone();
        }
        content
    }
}

/// One session's handler, or one modern request's.
pub(super) struct Handler {
    shared: Arc<Shared>,
    /// Drawn by `initialize`; modern requests have none.
    session: OnceLock<String>,
}

/// What the sample must remember between a question and its answer.
#[derive(Serialize, Deserialize)]
struct Asked {
    version: String,
    tone: String,
}

impl Handler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            session: OnceLock::new(),
        }
    }

    fn done(&self, arguments: &JsonObject, answer: &Value) -> CallToolResponse {
        let session = self.session.get().map(String::as_str);
        CallToolResult::structured(self.shared.signed(session, arguments, answer)).into()
    }

    fn failed(&self, arguments: &JsonObject, message: &str) -> CallToolResponse {
        let session = self.session.get().map(String::as_str);
        let content = self.shared.signed(session, arguments, &json!(message));
        let mut result = CallToolResult::structured_error(content);
        result.content = vec![ContentBlock::text(message)];
        result.into()
    }

    async fn change_voice(
        &self,
        spec: &Spec,
        request: &CallToolRequestParams,
        arguments: &JsonObject,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tone = text(arguments, "tone");
        let confirmed = if is_modern(context) {
            let Some(sealed) = &request.request_state else {
                let asked = Asked {
                    version: self.shared.version.clone(),
                    tone: tone.to_owned(),
                };
                let state = self.shared.codec.seal_json(&asked).map_err(|error| {
                    ErrorData::internal_error(format!("cannot seal the state: {error}"), None)
                })?;
                let mut questions = InputRequests::new();
                questions.insert(
                    QUESTION.into(),
                    InputRequest::Elicitation(ElicitRequest::new(question(tone)?)),
                );
                return Ok(InputRequiredResult::new(Some(questions), Some(state)).into());
            };
            let asked = self.shared.codec.open_json::<Asked>(sealed);
            if !asked.is_ok_and(|asked| asked.version == self.shared.version && asked.tone == tone)
            {
                return Err(ErrorData::invalid_params(
                    "requestState was not made by this version for this request",
                    None,
                ));
            }
            request
                .input_responses
                .as_ref()
                .and_then(|responses| responses.get(QUESTION))
                .is_some_and(|response| response["action"] == "accept")
        } else if context
            .client_capabilities()
            .is_some_and(|capabilities| capabilities.elicitation.is_some())
        {
            let asked = context.peer.create_elicitation(question(tone)?).await;
            asked.is_ok_and(|result| result.action == ElicitationAction::Accept)
        } else {
            return Ok(self.failed(arguments, "the client cannot ask its user"));
        };
        Ok(if confirmed {
            self.done(arguments, &spec.run(arguments))
        } else {
            self.failed(arguments, "not confirmed")
        })
    }

    async fn upload(
        &self,
        spec: &Spec,
        arguments: &JsonObject,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let total = documents(arguments);
        if total > STEPS_MAX {
            return self.failed(arguments, &format!("at most {STEPS_MAX} documents"));
        }
        for step in 1..=total {
            tokio::time::sleep(step_time(arguments)).await;
            if let Some(token) = context.meta.get_progress_token() {
                let note = ProgressNotificationParam::new(token, step as f64)
                    .with_total(total as f64)
                    .with_message(format!("parsed {step} of {total}"));
                // A caller that went away needs no progress; the transport cancels the call itself.
                let _ = context.peer.notify_progress(note).await;
            }
        }
        self.done(arguments, &spec.run(arguments))
    }

    fn embed(
        &self,
        spec: &'static Spec,
        arguments: JsonObject,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let knows_tasks = context
            .client_capabilities()
            .is_some_and(|capabilities| capabilities.supports_tasks());
        if !knows_tasks {
            return self.done(&arguments, &spec.run(&arguments));
        }
        let shared = Arc::clone(&self.shared);
        let session = self.session.get().cloned();
        let options = TaskOptions::new().with_poll_interval_ms(TASK_POLL_MS);
        let task = self.shared.tasks.spawn(options, move |task| {
            Box::pin(async move {
                tokio::select! {
                    () = task.cancelled() => Err(TaskExit::Cancelled),
                    () = tokio::time::sleep(step_time(&arguments)) => {
                        let answer = spec.run(&arguments);
                        let content = shared.signed(session.as_deref(), &arguments, &answer);
                        Ok(CallToolResult::structured(content))
                    }
                }
            })
        });
        CallToolResponse::Task(CreateTaskResult::new(task))
    }
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new(
            "serin-sample",
            self.shared.version.clone(),
        ))
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.session
            .get_or_init(|| uuid::Uuid::new_v4().simple().to_string());
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared.tools.find(name).map(Spec::tool)
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let specs = self.shared.tools.specs();
        let start = match page.and_then(|page| page.cursor) {
            None => 0,
            // The version is part of the cursor: one that another version made is found out.
            Some(cursor) => cursor
                .strip_prefix(&format!("{}:", self.shared.version))
                .and_then(|offset| offset.parse::<usize>().ok())
                .filter(|offset| *offset < specs.len())
                .ok_or_else(|| {
                    ErrorData::invalid_params("the cursor was not made by this version", None)
                })?,
        };
        let end = specs.len().min(start + PAGE_TOOLS);
        let tools = specs[start..end].iter().map(Spec::tool).collect();
        let mut list = ListToolsResult::with_all_items(tools)
            .with_ttl_ms(LIST_TTL_MS)
            .with_cache_scope(CacheScope::Public);
        list.next_cursor = (end < specs.len()).then(|| format!("{}:{end}", self.shared.version));
        Ok(list)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(spec) = self.shared.tools.find(&request.name) else {
            return Err(ErrorData::invalid_params(
                format!("unknown tool `{}`", request.name),
                None,
            ));
        };
        let arguments = request.arguments.clone().unwrap_or_default();
        #[cfg(feature = "faults")]
        if let Some(crate::faults::FailTool(message)) = context
            .extensions
            .get::<http::request::Parts>()
            .and_then(|parts| parts.extensions.get())
        {
            return Ok(self.failed(&arguments, message));
        }
        if let Some(name) = spec.missing(&arguments) {
            let message = format!("argument `{name}` is missing or of the wrong type");
            return Ok(self.failed(&arguments, &message));
        }
        match spec.name {
            ELICITING_TOOL => {
                self.change_voice(spec, &request, &arguments, &context)
                    .await
            }
            PROGRESS_TOOL => Ok(self.upload(spec, &arguments, &context).await),
            TASK_TOOL => Ok(self.embed(spec, arguments, &context)),
            _ => Ok(self.done(&arguments, &spec.run(&arguments))),
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let task = self.shared.tasks.get_task(&request.task_id)?;
        Ok(GetTaskResult::new(task))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let tasks = &self.shared.tasks;
        tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.tasks.cancel_task(&request.task_id)
    }
}

fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    // Versions are dates: they sort as text.
    context
        .protocol_version()
        .is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

fn question(tone: &str) -> Result<ElicitRequestParams, ErrorData> {
    let requested_schema = serde_json::from_value::<ElicitationSchema>(json!({
        "type": "object",
        "properties": { "sure": { "type": "boolean" } },
    }))
    .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: format!("Change the brand's tone to `{tone}`?"),
        requested_schema,
    })
}

fn step_time(arguments: &JsonObject) -> Duration {
    Duration::from_millis(integer(arguments, "step_ms").min(STEP_MS_MAX))
}
