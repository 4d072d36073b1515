//! Audit: one row for each request, made when the last byte of its answer went out or it was turned away.
//!
//! A core gathers its rows and sends them in batches, so that a request waits for nobody. What is written, and where, is not
//! known here. With the audit off a request carries an empty [`Trail`], which costs nothing.

mod redact;

use crate::{affinity, connection::Connection, refusal::Refusal};
use http::{StatusCode, header, request::Parts};
use ipnet::IpNet;
use serin_mcp::envelope::{Envelope, Message};
use serin_model::{
    audit::{AuditGate, AuditRow},
    name::{ServiceName, VersionName},
    observe::{Outcome, Rejection},
};
use serin_tenancy::{Directory, Principal};
use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Notify, mpsc};

/// Time from a row to its batch. What is lost when the process is killed is no older than this.
const FLUSH_AFTER: Duration = Duration::from_millis(10);
/// Rows of a batch: a core at full speed fills one well within [`FLUSH_AFTER`].
const BATCH_ROWS: usize = 256;
/// Most rows that a core holds while nobody takes them: some tens of megabytes. Beyond it rows that need not be kept are lost and
/// counted, and where they must be kept requests are refused.
const HELD_ROWS_MAX: usize = 65_536;
/// Time for the last batch when the gateway stops.
const LAST_FLUSH: Duration = Duration::from_secs(5);
/// Longest path that is kept, in characters.
const ENDPOINT_CHARS_MAX: usize = 512;
/// Longest name of a client that is kept, in characters.
const USER_AGENT_CHARS_MAX: usize = 200;
/// Longest text of an error that is kept, in characters: that of the Stage I seed (section 5.2).
const ERROR_CHARS_MAX: usize = 100;
/// Longest name of a method or tool that is kept, in characters. Clients make them up.
const NAME_CHARS_MAX: usize = 128;
/// Longest list of a batch's tools, in characters.
const BATCH_TOOLS_CHARS_MAX: usize = 256;
/// The status of a request whose client left before there was one, as nginx writes it.
const CLIENT_LEFT: u16 = 499;
/// The method of a batch.
const BATCH: &str = "batch";
/// The method of an open stream that names none.
const STREAM: &str = "stream";

/// Where the rows of the requests go.
#[derive(Clone, Debug)]
pub struct AuditTo {
    /// Who takes them, batch by batch.
    pub rows: mpsc::Sender<Vec<AuditRow>>,
    /// Shut while rows cannot be kept.
    pub gate: AuditGate,
    /// Whether requests are refused that could not be recorded.
    pub is_required: bool,
    /// Whether arguments of calls are recorded, redacted.
    pub with_arguments: bool,
    /// Rows that were lost, since nobody took them.
    pub lost: Arc<AtomicU64>,
}

/// The rows of one core.
pub(crate) struct Sink {
    to: AuditTo,
    rows: RefCell<Vec<AuditRow>>,
    waiting: Notify,
}

impl Sink {
    pub(crate) fn new(to: AuditTo) -> Self {
        Self {
            to,
            rows: RefCell::default(),
            waiting: Notify::new(),
        }
    }

    /// Begins the row of a request.
    pub(crate) fn begin(
        self: &Rc<Self>,
        connection: &Connection,
        trusted: &[IpNet],
        parts: &Parts,
    ) -> Trail {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let user_agent = parts.headers.get(header::USER_AGENT);
        let user_agent = user_agent.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let row = AuditRow {
            at_micros: i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX),
            tenant: Box::default(),
            subject: None,
            key_hash: Box::default(),
            endpoint: cut(parts.uri.path(), ENDPOINT_CHARS_MAX).into(),
            method: parts.method.as_str().into(),
            status: CLIENT_LEFT,
            duration_ms: 0,
            address: Some(affinity::client_address(
                &parts.headers,
                connection,
                trusted,
            )),
            user_agent: user_agent.map(|text| cut(&text, USER_AGENT_CHARS_MAX).into()),
            error: None,
            service: None,
            version: None,
            rpc_method: None,
            tool: None,
            outcome: "",
            arguments: None,
        };
        Trail(Some(Rc::new(Draft {
            sink: Rc::clone(self),
            began: Instant::now(),
            row: RefCell::new(Some(row)),
        })))
    }

    /// Whether a new request must be refused, because it could not be recorded.
    pub(crate) fn is_shut(&self) -> bool {
        self.to.is_required
            && (self.to.gate.is_shut()
                || self.to.rows.is_closed()
                || self.rows.borrow().len() >= HELD_ROWS_MAX)
    }

    /// Sends batches until the gateway stops.
    pub(crate) async fn keep_flushing(&self) {
        loop {
            self.waiting.notified().await;
            while !self.rows.borrow().is_empty() {
                tokio::time::sleep(FLUSH_AFTER).await;
                self.flush();
            }
        }
    }

    /// Sends what is left, and waits until it is taken.
    pub(crate) async fn finish(&self) {
        let rows = self.rows.take();
        let count = rows.len();
        if count > 0 {
            let sent = tokio::time::timeout(LAST_FLUSH, self.to.rows.send(rows)).await;
            if !matches!(sent, Ok(Ok(()))) {
                self.lose(count);
            }
        }
    }

    fn push(&self, row: AuditRow) {
        let count = {
            let mut rows = self.rows.borrow_mut();
            if rows.len() >= HELD_ROWS_MAX && !self.to.is_required {
                drop(rows);
                return self.lose(1);
            }
            rows.push(row);
            rows.len()
        };
        if count == 1 {
            self.waiting.notify_one();
        }
        if count >= BATCH_ROWS {
            self.flush();
        }
    }

    fn flush(&self) {
        if self.rows.borrow().is_empty() {
            return;
        }
        match self.to.rows.try_reserve() {
            Ok(permit) => permit.send(self.rows.replace(Vec::with_capacity(BATCH_ROWS))),
            // They wait for the next time.
            Err(mpsc::error::TrySendError::Full(())) => {}
            Err(mpsc::error::TrySendError::Closed(())) => {
                let count = self.rows.take().len();
                self.lose(count);
            }
        }
    }

    fn lose(&self, count: usize) {
        self.to.lost.fetch_add(count as u64, Relaxed);
    }
}

/// What is known of a request for its row. Clones are of the same request; the row is sent when the last is dropped.
#[derive(Clone, Default)]
pub(crate) struct Trail(Option<Rc<Draft>>);

struct Draft {
    sink: Rc<Sink>,
    began: Instant,
    /// Nothing if there will be no row.
    row: RefCell<Option<AuditRow>>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(mut row) = self.row.take() else {
            return;
        };
        row.duration_ms = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        if row.outcome.is_empty() {
            row.outcome = of_status(row.status).label();
        }
        self.sink.push(row);
    }
}

fn of_status(status: u16) -> Outcome {
    match status {
        CLIENT_LEFT => Outcome::Cancelled,
        400..500 => Outcome::Http4xx,
        500.. => Outcome::Http5xx,
        _ => Outcome::Ok,
    }
}

impl Trail {
    fn edit(&self, change: impl FnOnce(&mut AuditRow)) {
        if let Some(draft) = &self.0
            && let Some(row) = &mut *draft.row.borrow_mut()
        {
            change(row);
        }
    }

    /// Whether there will be a row.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Nothing of it is recorded: a health check, or what was refused because nothing can be recorded.
    pub(crate) fn forget(&self) {
        if let Some(draft) = &self.0 {
            draft.row.take();
        }
    }

    pub(crate) fn of_service(&self, service: &ServiceName) {
        self.edit(|row| row.service = Some(service.as_str().into()));
    }

    /// Who proved to be the caller.
    pub(crate) fn by(&self, principal: &Principal, directory: &Directory) {
        self.edit(|row| {
            row.tenant = principal.tenant.as_str().into();
            row.subject = Some(cut(&principal.subject, NAME_CHARS_MAX).into());
            if let Some(record) = principal.key.and_then(|key| directory.record(key)) {
                row.key_hash = record.hash.to_hex().into();
            }
        });
    }

    /// Whose the caller says it is, where nobody has to prove it.
    pub(crate) fn of_tenant(&self, tenant: Option<&str>) {
        self.edit(|row| {
            if let Some(tenant) = tenant.filter(|_| row.tenant.is_empty()) {
                row.tenant = cut(tenant, NAME_CHARS_MAX).into();
            }
        });
    }

    /// What it asks, in JSON-RPC.
    pub(crate) fn asks(&self, envelope: &Envelope<'_>) {
        let Some(draft) = &self.0 else { return };
        if let Some(message) = envelope.single() {
            let tool = is_call(message).then(|| message.name.as_deref().unwrap_or_default());
            self.names(message.method.as_deref(), tool);
            if draft.sink.to.with_arguments {
                let arguments = message.params.and_then(redact::arguments);
                self.edit(|row| row.arguments = arguments.map(Into::into));
            }
            return;
        }
        let calls = envelope.messages.iter().filter(|message| is_call(message));
        let tools: Vec<_> = calls.filter_map(|call| call.name.as_deref()).collect();
        let tools = (!tools.is_empty()).then(|| tools.join(","));
        self.edit(|row| {
            row.rpc_method = Some(BATCH.into());
            row.tool = tools.map(|tools| cut(&tools, BATCH_TOOLS_CHARS_MAX).into());
        });
    }

    /// The method and tool, where they are known otherwise than from the body.
    pub(crate) fn names(&self, method: Option<&str>, tool: Option<&str>) {
        let name = |name: &str| cut(name, NAME_CHARS_MAX).into();
        self.edit(|row| {
            row.rpc_method = method.map(name);
            row.tool = tool.map(name);
        });
    }

    /// It is an open stream of events, whose time says nothing about how fast anything is.
    pub(crate) fn streams(&self) {
        self.edit(|row| {
            row.rpc_method.get_or_insert_with(|| STREAM.into());
        });
    }

    pub(crate) fn goes_to(&self, version: &VersionName) {
        self.edit(|row| row.version = Some(version.as_str().into()));
    }

    /// How a call of it ended; of several the worst counts.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.edit(|row| {
            let rank = |label: &str| {
                let found = Outcome::ALL.iter().find(|known| known.label() == label);
                found.map_or(0, |found| {
                    1 + u8::from(*found != Outcome::Ok) + u8::from(found.is_bad())
                })
            };
            if rank(outcome.label()) > rank(row.outcome) {
                row.outcome = outcome.label();
            }
        });
    }

    /// The gateway itself ended it, for this reason.
    pub(crate) fn turned_away(&self, why: Rejection) {
        self.edit(|row| row.outcome = why.label());
    }

    /// It was refused, with these words.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.edit(|row| {
            row.error = Some(cut(&refusal.words(), ERROR_CHARS_MAX).into());
            if let Some(service) = &refusal.service {
                row.service = Some(service.as_str().into());
            }
        });
        if let Some(why) = refusal.counted {
            self.turned_away(why);
        }
    }

    /// The client gets this status.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.edit(|row| row.status = status.as_u16());
    }
}

fn is_call(message: &Message<'_>) -> bool {
    message.method() == "tools/call"
}

/// The beginning of a text.
fn cut(text: &str, chars_max: usize) -> &str {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str, agent: &str) -> Parts {
        let request = http::Request::get(path).header(header::USER_AGENT, agent);
        request.body(()).unwrap().into_parts().0
    }

    fn sink(room: usize, is_required: bool) -> (Rc<Sink>, mpsc::Receiver<Vec<AuditRow>>) {
        let (rows, taken) = mpsc::channel(room);
        let to = AuditTo {
            rows,
            gate: AuditGate::default(),
            is_required,
            with_arguments: true,
            lost: Arc::default(),
        };
        (Rc::new(Sink::new(to)), taken)
    }

    fn connection() -> Connection {
        Connection::new("192.0.2.1:1".parse().unwrap(), false, Rc::default())
    }

    fn begin(sink: &Rc<Sink>) -> Trail {
        sink.begin(&connection(), &[], &parts("/mcp?secret=1", "curl/8"))
    }

    #[test]
    fn a_row_is_made_when_the_last_who_knows_of_the_request_is_gone() {
        let (sink, _taken) = sink(1, false);
        let trail = begin(&sink);
        trail.answered(StatusCode::OK);
        let other = trail.clone();
        drop(trail);
        assert!(sink.rows.borrow().is_empty());
        other.ended(Outcome::ToolError);
        drop(other);
        let rows = sink.rows.borrow();
        assert_eq!(&*rows[0].endpoint, "/mcp", "no query");
        assert_eq!((rows[0].status, rows[0].outcome), (200, "tool_error"));
        assert_eq!(rows[0].address, Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn without_an_answer_the_client_has_left() {
        let (sink, _taken) = sink(1, false);
        drop(begin(&sink));
        let rows = sink.rows.borrow();
        assert_eq!((rows[0].status, rows[0].outcome), (499, "cancelled"));
    }

    #[test]
    fn of_several_ends_the_worst_counts_and_a_rejection_says_why() {
        let (sink, _taken) = sink(1, false);
        let trail = begin(&sink);
        for outcome in [Outcome::Ok, Outcome::RpcError, Outcome::CalledBadly] {
            trail.ended(outcome);
        }
        trail.answered(StatusCode::OK);
        drop(trail);
        let trail = begin(&sink);
        let refusal = Refusal::plain(StatusCode::FORBIDDEN, "x".repeat(300));
        trail.refused(&refusal.counted(Rejection::Scope));
        trail.answered(StatusCode::FORBIDDEN);
        drop(trail);
        let rows = sink.rows.borrow();
        assert_eq!(rows[0].outcome, "rpc_error");
        assert_eq!((rows[1].status, rows[1].outcome), (403, "scope"));
        assert_eq!(
            rows[1].error.as_deref(),
            Some(&*"x".repeat(ERROR_CHARS_MAX))
        );
    }

    #[test]
    fn a_full_batch_goes_at_once_and_a_full_channel_loses_nothing_at_first() {
        let (sink, mut taken) = sink(1, false);
        (0..BATCH_ROWS * 3).for_each(|_| drop(begin(&sink)));
        assert_eq!(taken.try_recv().unwrap().len(), BATCH_ROWS);
        drop(begin(&sink));
        assert_eq!(taken.try_recv().unwrap().len(), BATCH_ROWS * 2 + 1);
        assert_eq!(sink.to.lost.load(Relaxed), 0);
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_lost_is_counted() {
        for is_required in [false, true] {
            let (sink, _taken) = sink(1, is_required);
            let row = |_| drop(begin(&sink));
            (0..BATCH_ROWS).for_each(row);
            assert!(!sink.is_shut());
            (0..HELD_ROWS_MAX + 5).for_each(row);
            let held = sink.rows.borrow().len();
            assert_eq!(sink.is_shut(), is_required);
            let lost = sink.to.lost.load(Relaxed);
            if is_required {
                assert_eq!(
                    (held, lost),
                    (HELD_ROWS_MAX + 5, 0),
                    "refused instead of lost"
                );
            } else {
                assert_eq!((held, lost), (HELD_ROWS_MAX, 5));
            }
        }
    }

    #[test]
    fn a_shut_gate_shuts_only_where_rows_must_be_kept() {
        for is_required in [false, true] {
            let (sink, _taken) = sink(1, is_required);
            sink.to.gate.shut(true);
            assert_eq!(sink.is_shut(), is_required);
            sink.to.gate.shut(false);
            assert!(!sink.is_shut());
        }
    }

    #[test]
    fn names_and_arguments_come_from_the_message() {
        let (sink, _taken) = sink(1, false);
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi","password":"hunter2"}}}"#;
        let many = format!("[{one},{}]", one.replace("echo", "add"));
        for body in [one, &many] {
            let trail = begin(&sink);
            trail.asks(&Envelope::read(body.as_bytes()).unwrap());
        }
        let rows = sink.rows.borrow();
        assert_eq!(rows[0].rpc_method.as_deref(), Some("tools/call"));
        assert_eq!(rows[0].tool.as_deref(), Some("echo"));
        let arguments = rows[0].arguments.as_deref().unwrap();
        assert_eq!(arguments, r#"{"password":"[redacted]","text":"hi"}"#);
        assert_eq!(rows[1].rpc_method.as_deref(), Some("batch"));
        assert_eq!(rows[1].tool.as_deref(), Some("echo,add"));
    }
}
