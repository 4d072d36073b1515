//! REST as an MCP client: it asks in the era that the endpoint speaks, through the same admission as everybody.
//!
//! Modern where the endpoint answers `server/discover`; else in a legacy session that is kept for its caller and version. What an endpoint
//! speaks is learnt from it and forgotten again after a while. A core remembers both for itself: no lock is taken.

use super::{
    answer::{self, Started},
    problem::{About, Problem},
    said::{Answer, Unreadable},
};
use crate::{
    admit::{Account, Asker, NotFound, Saying, Spot},
    core::Core,
    headers,
    refusal::Refusal,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use serin_mcp::{era::Era, header::encode};
use serin_model::{
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    observe::Rejection,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// The versions of MCP in which we ask.
const MODERN: &str = "2026-07-28";
/// The same, for endpoints that have sessions.
const LEGACY: &str = "2025-11-25";
/// How long it is remembered what an endpoint speaks: a server may be replaced behind its URL.
const ERA_KEPT: Duration = Duration::from_mins(5);
/// Most endpoints of which it is remembered.
const ERAS_MAX: usize = 10_000;
/// Most sessions that a core keeps. Beyond, that which was used least recently ends.
const SESSIONS_MAX: usize = 1000;

/// What a core remembers of endpoints and sessions.
#[derive(Default)]
pub(crate) struct Memory {
    eras: RefCell<HashMap<EndpointId, (Era, Instant)>>,
    sessions: RefCell<HashMap<Whose, Rc<Kept>>>,
    last_id: Cell<u64>,
}

/// Whose a session is, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    service: ServiceName,
    version: VersionName,
    /// The step of a rollout: in each its callers are counted anew.
    step: Option<(RolloutId, u32)>,
    is_tester: bool,
    caller: [u8; 32],
}

/// A session that is kept.
struct Kept {
    session: OnceCell<Session>,
    used: Cell<Instant>,
    /// Calls under way.
    calls: Cell<u32>,
}

/// A legacy session.
struct Session {
    /// Who opened it.
    asker: Rc<Asker>,
    id: HeaderValue,
    version: HeaderValue,
}

impl Memory {
    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    fn era(&self, endpoint: EndpointId) -> Option<Era> {
        let eras = self.eras.borrow();
        let (era, since) = eras.get(&endpoint)?;
        (since.elapsed() < ERA_KEPT).then_some(*era)
    }

    fn learn(&self, endpoint: EndpointId, era: Era) {
        let mut eras = self.eras.borrow_mut();
        if eras.len() >= ERAS_MAX {
            eras.clear();
        }
        eras.insert(endpoint, (era, Instant::now()));
    }

    fn forget(&self, endpoint: EndpointId) {
        self.eras.borrow_mut().remove(&endpoint);
    }

    /// The session of a caller, open or not yet; and one that ends for it.
    fn session(&self, whose: &Whose) -> (Rc<Kept>, Option<Rc<Kept>>) {
        let mut sessions = self.sessions.borrow_mut();
        if let Some(kept) = sessions.get(whose) {
            kept.used.set(Instant::now());
            return (Rc::clone(kept), None);
        }
        let mut ended = None;
        if sessions.len() >= SESSIONS_MAX {
            let idle = sessions.iter().filter(|(_, kept)| kept.calls.get() == 0);
            let oldest = idle.min_by_key(|(_, kept)| kept.used.get());
            let oldest = oldest.map(|(whose, _)| whose.clone());
            ended = oldest.and_then(|oldest| sessions.remove(&oldest));
        }
        let kept = Rc::new(Kept {
            session: OnceCell::new(),
            used: Cell::new(Instant::now()),
            calls: Cell::new(0),
        });
        // Where all of them are in use, this one serves its request and is not kept.
        if sessions.len() < SESSIONS_MAX {
            sessions.insert(whose.clone(), Rc::clone(&kept));
        }
        (kept, ended)
    }

    fn drop_session(&self, whose: &Whose, lost: &Rc<Kept>) {
        let mut sessions = self.sessions.borrow_mut();
        if sessions
            .get(whose)
            .is_some_and(|kept| Rc::ptr_eq(kept, lost))
        {
            sessions.remove(whose);
        }
    }

    /// Ends the sessions that nobody has used for a while.
    pub(crate) fn sweep(&self, core: &Rc<Core>) {
        let (mut ended, idle_max) = (Vec::new(), core.options().rest_idle);
        self.sessions.borrow_mut().retain(|_, kept| {
            let is_idle = kept.calls.get() == 0 && kept.used.get().elapsed() > idle_max;
            if is_idle {
                ended.push(Rc::clone(kept));
            }
            !is_idle
        });
        for kept in ended {
            end(core, kept);
        }
    }
}

/// Ends a session with its server, behind everybody's back.
fn end(core: &Rc<Core>, kept: Rc<Kept>) {
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let Some(session) = kept.session.get() else {
            return;
        };
        let saying = Saying {
            era: Era::Legacy,
            method: Method::DELETE,
            session: Some(session.id.clone()),
            led: None,
            headers: version(&session.version),
            body: String::new(),
        };
        // Its server ends it by itself in the end.
        let _ = session.asker.say(&core, saying, None).await;
    });
}

/// A call in a session, which is cancelled there when nobody waits for it any more (2025-11-25, "Cancellation": to go away says
/// nothing).
pub(crate) struct Running {
    core: Rc<Core>,
    asker: Rc<Asker>,
    kept: Rc<Kept>,
    id: u64,
    is_answered: bool,
}

impl Running {
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kept.calls.set(self.kept.calls.get().saturating_sub(1));
        self.kept.used.set(Instant::now());
        if self.is_answered || self.core.is_stopping() {
            return;
        }
        let (core, asker, kept) = (self.core.clone(), self.asker.clone(), self.kept.clone());
        let id = self.id;
        tokio::task::spawn_local(async move {
            let Some(session) = kept.session.get() else {
                return;
            };
            let params = json!({ "requestId": id, "reason": "the caller went away" });
            let body =
                json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
            let saying = in_session(session, body.to_string());
            let _ = asker.say(&core, saying, None).await;
        });
    }
}

/// One request of MCP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'q> {
    pub(crate) method: &'static str,
    /// The tool, where one is called.
    pub(crate) name: Option<&'q str>,
    /// The members of `params`, without braces around them; each ends with a comma.
    pub(crate) params: &'q str,
    /// Whether to ask for progress.
    pub(crate) progress: bool,
    /// Headers that mirror arguments.
    pub(crate) mirrored: &'q [(HeaderName, HeaderValue)],
}

/// REST's client for one request.
pub(crate) struct Client {
    pub(crate) core: Rc<Core>,
    pub(crate) asker: Rc<Asker>,
    pub(crate) account: Account,
}

impl Client {
    /// The same caller with a question of ours, which is not recorded.
    pub(crate) fn aside(&self) -> Self {
        Self {
            core: self.core.clone(),
            asker: self.asker.clone(),
            account: Account::default(),
        }
    }

    /// Asks; the answer has begun.
    pub(crate) async fn ask(&self, question: &Question<'_>) -> Result<Started, Refusal> {
        let spot = self.asker.spot(&self.core)?;
        match self.era(&spot).await? {
            Era::Modern => {
                let account = Some(&self.account);
                let started = self.modern(&spot, question, account).await?;
                if matches!(
                    started.status(),
                    StatusCode::NOT_FOUND
                        | StatusCode::METHOD_NOT_ALLOWED
                        | StatusCode::BAD_REQUEST
                ) {
                    // It may be another server by now.
                    self.core.rest.forget(spot.endpoint);
                }
                Ok(started)
            }
            Era::Legacy => self.legacy(&spot, question).await,
        }
    }

    async fn era(&self, spot: &Spot) -> Result<Era, Refusal> {
        let memory = &self.core.rest;
        if let Some(era) = memory.era(spot.endpoint) {
            return Ok(era);
        }
        let discover = Question {
            method: "server/discover",
            name: None,
            params: "",
            progress: false,
            mirrored: &[],
        };
        let started = self.modern(spot, &discover, None).await?;
        let status = started.status();
        // It refuses this caller, in whatever era.
        if matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        ) {
            return Err(started.refused(About::default()).await);
        }
        let era = match started.answer(About::default(), &mut |_| {}).await {
            Ok((_, Answer::Result(result))) if speaks_modern(result.get()) => Era::Modern,
            _ => Era::Legacy,
        };
        if era == Era::Modern || !status.is_server_error() {
            memory.learn(spot.endpoint, era);
        }
        Ok(era)
    }

    async fn modern(
        &self,
        spot: &Spot,
        question: &Question<'_>,
        account: Option<&Account>,
    ) -> Result<Started, Refusal> {
        let id = self.core.rest.next_id();
        let meta = format!(
            r#""io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientInfo":{},"io.modelcontextprotocol/clientCapabilities":{{}}"#,
            who()
        );
        let mut headers = version(&HeaderValue::from_static(MODERN));
        headers.insert(&headers::METHOD, HeaderValue::from_static(question.method));
        if let Some(name) = question.name
            && let Ok(name) = HeaderValue::from_str(&encode(name))
        {
            headers.insert(&headers::NAME, name);
        }
        headers.extend(question.mirrored.iter().cloned());
        let saying = Saying {
            era: Era::Modern,
            method: Method::POST,
            session: None,
            led: led(spot),
            headers,
            body: body(id, question, &meta),
        };
        let response = self.asker.say(&self.core, saying, account).await?;
        Ok(Started::new(id, response, None))
    }

    /// In the session of the caller. One that its server has lost is begun anew, once.
    async fn legacy(&self, spot: &Spot, question: &Question<'_>) -> Result<Started, Refusal> {
        let whose = Whose {
            service: spot.service.clone(),
            version: spot.version.clone(),
            step: spot.step,
            is_tester: spot.is_tester,
            caller: self.asker.caller,
        };
        let memory = &self.core.rest;
        loop {
            let (kept, ended) = memory.session(&whose);
            if let Some(ended) = ended {
                end(&self.core, ended);
            }
            let is_new = !kept.session.initialized();
            kept.calls.set(kept.calls.get() + 1);
            let mut running = Running {
                core: self.core.clone(),
                asker: self.asker.clone(),
                kept: Rc::clone(&kept),
                id: memory.next_id(),
                is_answered: true,
            };
            let opened = kept
                .session
                .get_or_try_init(|| Box::pin(self.open(spot)))
                .await;
            let session = match opened {
                Ok(session) => session,
                Err(refusal) => {
                    memory.drop_session(&whose, &kept);
                    memory.forget(spot.endpoint);
                    return Err(refusal);
                }
            };
            running.is_answered = false;
            let body = body(running.id, question, "");
            let saying = in_session(session, body);
            let said = self
                .asker
                .say(&self.core, saying, Some(&self.account))
                .await;
            // Any other 404 is an answer: the call may have been run.
            let not_found = match &said {
                Ok(response) => response.extensions().get().copied(),
                Err(refusal) => {
                    (refusal.counted == Some(Rejection::Session)).then_some(NotFound::Session)
                }
            };
            if let Some(not_found) = not_found {
                running.answered();
                memory.drop_session(&whose, &kept);
                if !is_new && not_found == NotFound::Session {
                    continue;
                }
            }
            let id = running.id;
            return match said {
                Ok(response) => Ok(Started::new(id, response, Some(running))),
                Err(refusal) => {
                    running.answered();
                    Err(refusal)
                }
            };
        }
    }

    /// Opens a session (2025-11-25, "Lifecycle"). It says that it can nothing: whoever calls REST cannot be asked.
    async fn open(&self, spot: &Spot) -> Result<Session, Refusal> {
        let id = self.core.rest.next_id();
        let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": who() });
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": "initialize", "params": params });
        let saying = Saying {
            era: Era::Legacy,
            method: Method::POST,
            session: None,
            led: led(spot),
            headers: HeaderMap::new(),
            body: body.to_string(),
        };
        let response = self.asker.say(&self.core, saying, None).await?;
        let session = response.headers().get(&headers::SESSION_ID).cloned();
        let started = Started::new(id, response, None);
        if !started.status().is_success() {
            return Err(started.refused(About::default()).await);
        }
        let (_, answer) = started.answer(About::default(), &mut |_| {}).await?;
        let Answer::Result(result) = answer else {
            return Err(answer::of_handshake(answer));
        };
        let result: Value = serde_json::from_str(result.get()).unwrap_or_default();
        let spoken = result.get("protocolVersion").and_then(Value::as_str);
        let spoken = spoken.and_then(|spoken| HeaderValue::from_str(spoken).ok());
        let (Some(id), Some(version)) = (session, spoken) else {
            let detail = Unreadable::NotRpc.to_string();
            return Err(Problem::no_answer(&detail, About::default()).refuse());
        };
        let session = Session {
            asker: self.asker.clone(),
            id,
            version,
        };
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let saying = in_session(&session, done.to_string());
        let response = self.asker.say(&self.core, saying, None).await?;
        let started = Started::new(0, response, None);
        if !started.status().is_success() {
            return Err(started.refused(About::default()).await);
        }
        Ok(session)
    }
}

/// Whether the answer to `server/discover` is that of a server that speaks as we do.
fn speaks_modern(result: &str) -> bool {
    let result: Value = serde_json::from_str(result).unwrap_or_default();
    let versions = result.get("supportedVersions").and_then(Value::as_array);
    versions.is_none_or(|versions| versions.iter().any(|version| version == MODERN))
}

fn version(version: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(&headers::PROTOCOL_VERSION, version.clone());
    headers
}

/// The version to which a rule has led: asked again, it may lead to another, whose turn it is then.
fn led(spot: &Spot) -> Option<VersionName> {
    spot.is_ruled.then(|| spot.version.clone())
}

fn in_session(session: &Session, body: String) -> Saying {
    Saying {
        era: Era::Legacy,
        method: Method::POST,
        session: Some(session.id.clone()),
        led: None,
        headers: version(&session.version),
        body,
    }
}

/// A request with these members of `_meta`.
fn body(id: u64, question: &Question<'_>, meta: &str) -> String {
    let token = format!(r#""progressToken":{id}"#);
    let meta = match (question.progress, meta) {
        (true, "") => token,
        (true, meta) => format!("{token},{meta}"),
        (false, meta) => meta.to_owned(),
    };
    let Question { method, params, .. } = question;
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}"_meta":{{{meta}}}}}}}"#
    )
}

fn who() -> Value {
    json!({ "name": "serin", "version": env!("CARGO_PKG_VERSION") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_in_both_eras() {
        let question = |progress| Question {
            method: "tools/call",
            name: Some("add"),
            params: r#""name":"add","arguments":{"a":1},"#,
            progress,
            mirrored: &[],
        };
        for (progress, meta, want) in [
            (false, "", json!({})),
            (true, "", json!({ "progressToken": 7 })),
            (false, r#""x":1"#, json!({ "x": 1 })),
            (true, r#""x":1"#, json!({ "progressToken": 7, "x": 1 })),
        ] {
            let made: Value = serde_json::from_str(&body(7, &question(progress), meta)).unwrap();
            let params = json!({ "name": "add", "arguments": { "a": 1 }, "_meta": want });
            let want =
                json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
            assert_eq!(made, want);
        }
    }

    #[test]
    fn a_server_says_in_discover_what_it_speaks() {
        for (result, is_modern) in [
            (r#"{"supportedVersions":["2026-07-28"]}"#, true),
            (r#"{"supportedVersions":["2027-01-01","2026-07-28"]}"#, true),
            (r#"{"supportedVersions":["2027-01-01"]}"#, false),
            ("{}", true),
        ] {
            assert_eq!(speaks_modern(result), is_modern, "{result}");
        }
    }

    #[test]
    fn sessions_are_bounded_and_the_oldest_goes_first() {
        let memory = Memory::default();
        let whose = |number: usize| {
            let mut caller = [0; 32];
            caller[..8].copy_from_slice(&number.to_be_bytes());
            Whose {
                service: "tools".parse().unwrap(),
                version: "v1".parse().unwrap(),
                step: None,
                is_tester: false,
                caller,
            }
        };
        let mut kept = vec![];
        for number in 0..SESSIONS_MAX {
            let (session, ended) = memory.session(&whose(number));
            assert!(ended.is_none());
            kept.push(session);
        }
        let again = memory.session(&whose(3)).0;
        assert!(Rc::ptr_eq(&again, &kept[3]));
        let old = Instant::now().checked_sub(Duration::from_secs(9)).unwrap();
        kept[5].used.set(old);
        kept[6].used.set(old);
        kept[5].calls.set(1);
        let (_, ended) = memory.session(&whose(SESSIONS_MAX));
        assert!(Rc::ptr_eq(&ended.unwrap(), &kept[6]), "not one with a call");
        assert_eq!(memory.sessions.borrow().len(), SESSIONS_MAX);
    }

    #[test]
    fn what_an_endpoint_speaks_is_remembered_for_a_while() {
        let memory = Memory::default();
        assert_eq!(memory.era(EndpointId(1)), None);
        memory.learn(EndpointId(1), Era::Modern);
        assert_eq!(memory.era(EndpointId(1)), Some(Era::Modern));
        let old = Instant::now().checked_sub(ERA_KEPT).unwrap();
        memory
            .eras
            .borrow_mut()
            .insert(EndpointId(1), (Era::Modern, old));
        assert_eq!(memory.era(EndpointId(1)), None);
        for number in 0..=ERAS_MAX {
            memory.learn(EndpointId(u32::try_from(number).unwrap()), Era::Legacy);
        }
        assert!(memory.eras.borrow().len() <= ERAS_MAX);
    }
}
