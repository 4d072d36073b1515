//! The shared backend of limits: Redis or Valkey, by one script that takes out of all buckets or out of none.

use super::{Answers, Limiter, Over, Standing, Want};
use redis::{AsyncConnectionConfig, Client, RedisError, Script, aio::MultiplexedConnection};
use serin_model::degraded::News;
use serin_tenancy::Taken;
use std::{
    fmt,
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};

/// Time from one attempt to reach a backend that does not answer to the next.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Time for a connection, however short the time for an answer is.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Before the names of all keys.
const PREFIX: &str = "serin:limit:";

/// Takes out of all buckets or out of none. `KEYS` are the buckets; `ARGV` has three numbers for each: the time that one request takes,
/// the time in which an empty bucket fills, both in microseconds, and how many are wanted. A bucket holds the moment at which it is full
/// and the time in which it fills, which may have been another one; the clock is the server's, for gateways disagree. The answer has
/// three numbers for each: microseconds to wait, how many are left, microseconds until it is full.
///
/// It is [`serin_tenancy::Limit::take`] in the server's words; half a microsecond is forgiven, for its numbers are not exact.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1700000000) * 1000000 + tonumber(time[2])
local at, changed, room = {}, {}, true
for i = 1, #KEYS do
  local interval, depth = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  local cost = interval * tonumber(ARGV[3 * i])
  at[i] = now
  local known = redis.call('GET', KEYS[i])
  if known then
    local full_at, of = string.match(known, '^(%S+) (%S+)$')
    local used = math.max(0, math.min(tonumber(full_at) - now, tonumber(of)))
    changed[i] = tonumber(of) ~= depth
    if changed[i] then used = used / tonumber(of) * depth end
    at[i] = now + used
  end
  if at[i] + cost > now + depth + 0.5 then room = false end
end
local answer = {}
for i = 1, #KEYS do
  local interval, depth = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  local cost = interval * tonumber(ARGV[3 * i])
  local wait = at[i] + cost - now - depth
  if wait <= 0.5 then wait = 0 end
  if room then at[i] = at[i] + cost end
  local used = at[i] - now
  if used > 0 and (room or changed[i]) then
    local text = string.format('%.3f %.3f', at[i], depth)
    redis.call('SET', KEYS[i], text, 'PX', string.format('%.0f', math.ceil(used / 1000) + 1000))
  end
  answer[3 * i - 2] = math.ceil(wait)
  answer[3 * i - 1] = math.floor(math.max(0, depth - used) / interval + 0.000001)
  answer[3 * i] = math.ceil(used)
end
return answer
",
    )
});

/// Where gateways share their buckets.
#[derive(Clone)]
pub struct Backend {
    client: Client,
    on_failure: OnFailure,
    timeout: Duration,
}

/// What becomes of requests while the backend does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They are limited by this gateway's own buckets, which have followed those of the backend.
    #[default]
    Local,
    /// They are refused.
    Refuse,
    /// They pass.
    Allow,
}

/// A text is no URL of a backend. The text is not repeated: it may hold a password.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the URL of the limiter's backend cannot be used: write `redis://HOST:PORT/NUMBER`, with `USER:PASSWORD@` before the host if it needs them, or `redis+unix:///PATH`"
)]
pub struct BackendError;

impl Backend {
    /// A backend by its URL. It is connected to when the gateway starts, and need not be there yet. `timeout` is the time for an answer.
    ///
    /// # Errors
    /// The URL makes no sense.
    pub fn new(url: &str, on_failure: OnFailure, timeout: Duration) -> Result<Self, BackendError> {
        Ok(Self {
            client: Client::open(url).map_err(|_| BackendError)?,
            on_failure,
            timeout,
        })
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("on_failure", &self.on_failure)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A core's connection to the backend.
pub(crate) struct Connection {
    state: watch::Sender<State>,
    failed: Notify,
}

#[derive(Clone)]
enum State {
    /// It was not tried yet.
    Starting,
    /// It answers.
    Up(MultiplexedConnection),
    /// It did not: it is asked for a sign of life by one task, and by no request.
    Down,
}

/// The backend did not answer, and requests are not to pass without.
pub(crate) struct Unavailable;

/// Why it did not answer.
enum Failure {
    Error(RedisError),
    TooSlow(Duration),
    Odd,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::TooSlow(time) => write!(f, "no answer within {} ms", time.as_millis()),
            Self::Odd => f.write_str("its answer makes no sense"),
        }
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Starting),
            failed: Notify::new(),
        }
    }
}

impl Connection {
    /// Connects, and does so again whenever the connection broke; never ends.
    pub(crate) async fn keep(&self, limiter: &Limiter, backend: &Backend) {
        // Another core may have seen the end of an outage already: one that was not back yet has no news.
        let mut is_news = true;
        loop {
            let failure = match connect(backend).await {
                Ok(connection) => {
                    tell_end(limiter);
                    is_news = true;
                    self.state.send_replace(State::Up(connection.clone()));
                    self.watch(connection, backend).await
                }
                Err(failure) => Some(failure),
            };
            self.state.send_replace(State::Down);
            if let Some(failure) = failure
                && std::mem::take(&mut is_news)
                && limiter.outage.began()
            {
                tell_begin(&failure);
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    /// Ends when the connection is of no use any more. Asking now and then finds that out before a request does, which would then be the
    /// one to go without.
    async fn watch(
        &self,
        mut connection: MultiplexedConnection,
        backend: &Backend,
    ) -> Option<Failure> {
        loop {
            let asked = async {
                tokio::time::sleep(PROBE_EVERY).await;
                ping(&mut connection, backend.timeout).await
            };
            tokio::select! {
                // Whoever saw it has told it.
                () = self.failed.notified() => return None,
                asked = asked => if let Err(failure) = asked {
                    return Some(failure);
                }
            }
        }
    }

    async fn up(&self, time: Duration) -> Option<MultiplexedConnection> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Starting));
        match tokio::time::timeout(time, known).await {
            Ok(Ok(state)) => match &*state {
                State::Up(connection) => Some(connection.clone()),
                State::Starting | State::Down => None,
            },
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn broke(&self) {
        // Of several requests that fail together, one says so.
        let was_up = self.state.send_if_modified(|state| {
            let before = std::mem::replace(state, State::Down);
            matches!(before, State::Up(_))
        });
        if was_up {
            self.failed.notify_one();
        }
    }
}

async fn connect(backend: &Backend) -> Result<MultiplexedConnection, Failure> {
    let time = CONNECT_TIME_MAX.max(backend.timeout);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(time))
        .set_response_timeout(None);
    let client = &backend.client;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = within(time, connecting).await?;
    ping(&mut connection, time).await?;
    Ok(connection)
}

async fn ping(connection: &mut MultiplexedConnection, time: Duration) -> Result<(), Failure> {
    let ping = redis::cmd("PING");
    within(time, ping.query_async(connection)).await
}

async fn within<T>(
    time: Duration,
    asked: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(time, asked).await {
        Ok(answer) => answer.map_err(Failure::Error),
        Err(_) => Err(Failure::TooSlow(time)),
    }
}

fn tell_begin(failure: &Failure) {
    tracing::warn!(%failure, "the backend of rate limits does not answer; `limiter.on_failure` says what becomes of requests");
}

fn tell_end(limiter: &Limiter) {
    if limiter.outage.ended() {
        tracing::info!("the backend of rate limits answers again");
    }
}

impl Limiter {
    /// Takes all of it out of the buckets, wherever they are.
    ///
    /// # Errors
    /// The backend does not answer, and requests are not to pass without.
    pub(crate) async fn ask(
        &self,
        connection: &Connection,
        wants: &[Want],
    ) -> Result<Result<Option<Standing>, Over>, Unavailable> {
        let Some(backend) = &self.backend else {
            return Ok(self.take(wants, self.now()));
        };
        let fallback = || match backend.on_failure {
            OnFailure::Local => Ok(self.take(wants, self.now())),
            OnFailure::Allow => Ok(Ok(None)),
            OnFailure::Refuse => Err(Unavailable),
        };
        let began = Instant::now();
        let Some(up) = connection.up(backend.timeout).await else {
            self.outage.fell_back();
            return fallback();
        };
        let left = backend.timeout.saturating_sub(began.elapsed());
        let asked = tokio::time::timeout(left, take(up, wants)).await;
        let asked = asked.unwrap_or(Err(Failure::TooSlow(backend.timeout)));
        if asked.is_err() {
            connection.broke();
        }
        let answers = asked.map(|taken| {
            if backend.on_failure == OnFailure::Local {
                self.follow(wants, &taken);
            }
            let mut answers = Answers::default();
            for (want, taken) in wants.iter().zip(taken) {
                answers.add(want, taken);
            }
            Ok(answers.into_result())
        });
        let tell = |news: News<&Failure>| match news {
            News::Began(failure) => tell_begin(failure),
            News::Ended => tracing::info!("the backend of rate limits answers again"),
        };
        self.outage.settle(answers, tell, fallback)
    }

    /// Makes the buckets here what they are there.
    fn follow(&self, wants: &[Want], taken: &[Taken]) {
        let now = self.now();
        for (want, taken) in wants.iter().zip(taken) {
            let left = u64::try_from(taken.reset_after.as_nanos()).unwrap_or(u64::MAX);
            let full_at = now.saturating_add(left);
            self.buckets.set(want.key, want.limit, now, full_at);
        }
    }
}

/// Runs the script.
async fn take(
    mut connection: MultiplexedConnection,
    wants: &[Want],
) -> Result<Vec<Taken>, Failure> {
    let mut call = TAKE.prepare_invoke();
    for want in wants {
        call.key(format!("{PREFIX}{:032x}", want.key));
    }
    let micros = |nanos: u64| format!("{}.{:03}", nanos / 1000, nanos % 1000);
    for want in wants {
        call.arg(micros(want.limit.cost(1)));
        call.arg(micros(want.limit.depth()));
        call.arg(want.count);
    }
    let numbers: Vec<i64> = call
        .invoke_async(&mut connection)
        .await
        .map_err(Failure::Error)?;
    let numbers: Vec<u64> = numbers
        .into_iter()
        .filter_map(|n| u64::try_from(n).ok())
        .collect();
    let taken = numbers.chunks_exact(3).map(|of_one| {
        let &[wait, left, reset] = of_one else {
            return None;
        };
        Some(Taken {
            retry_after: (wait > 0).then(|| Duration::from_micros(wait)),
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            reset_after: Duration::from_micros(reset),
        })
    });
    let taken: Option<Vec<Taken>> = taken.collect();
    taken
        .filter(|taken| taken.len() == wants.len())
        .ok_or(Failure::Odd)
}

#[cfg(test)]
mod tests;
