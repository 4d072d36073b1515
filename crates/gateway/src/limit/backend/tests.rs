use super::*;
use proptest::test_runner::{Config, TestRunner};
use serin_tenancy::Limit;
use serin_testbed::valkey::Valkey;
use std::rc::Rc;
use tempfile::TempDir;
use tokio::task::LocalSet;

/// So short that nobody waits for long, and long enough for a machine that is busy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// No wait in a test is longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A core's way to a backend.
struct Way {
    limiter: Rc<Limiter>,
    connection: Rc<Connection>,
}

impl Way {
    fn to(url: &str, on_failure: OnFailure, timeout: Duration) -> Self {
        let backend = Backend::new(url, on_failure, timeout).unwrap();
        let way = Self {
            limiter: Rc::new(Limiter::new(Some(backend.clone()))),
            connection: Rc::default(),
        };
        let (limiter, connection) = (way.limiter.clone(), way.connection.clone());
        tokio::task::spawn_local(async move { connection.keep(&limiter, &backend).await });
        way
    }

    /// How many more pass, or nothing where the backend is missed.
    async fn passing(&self, want: Want) -> Option<u32> {
        let mut passed = 0;
        loop {
            match self.limiter.ask(&self.connection, &[want]).await {
                Ok(Ok(_)) if passed >= 1000 => return Some(passed),
                Ok(Ok(_)) => passed += 1,
                Ok(Err(_)) => return Some(passed),
                Err(Unavailable) => return None,
            }
        }
    }

    async fn until(&self, is_up: bool) {
        let mut state = self.connection.state.subscribe();
        let right = state.wait_for(|state| matches!(state, State::Up(_)) == is_up);
        tokio::time::timeout(PATIENCE, right)
            .await
            .unwrap()
            .unwrap();
    }
}

fn want(rate: &str, burst: u32) -> Want {
    Want {
        key: 7,
        limit: Limit {
            rate: rate.parse().unwrap(),
            burst,
        },
        count: 1,
        label: "key",
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn gateways_share_their_buckets() {
    run(async {
        let folder = TempDir::new().unwrap();
        let valkey = Valkey::start(folder.path(), Some("a-password"));
        let way = || Way::to(&valkey.url(), OnFailure::Refuse, TIMEOUT);
        let (one, other) = (way(), way());
        let want = want("100/hour", 100);
        for n in 0..100 {
            let way = if n % 3 == 0 { &one } else { &other };
            let standing = way.limiter.ask(&way.connection, &[want]).await;
            let left = standing.ok().unwrap().unwrap().unwrap().remaining;
            assert_eq!(left, 99 - n);
        }
        assert_eq!(one.passing(want).await, Some(0));
        assert_eq!(other.passing(want).await, Some(0));
        // All or nothing: what the full one refuses is not taken out of the other.
        let fresh = Want { key: 8, ..want };
        let over = one.limiter.ask(&one.connection, &[fresh, want]).await;
        let wait = over.ok().unwrap().unwrap_err().retry_after.unwrap();
        assert!(
            wait > Duration::from_secs(20) && wait <= Duration::from_secs(36),
            "{wait:?}"
        );
        assert_eq!(one.passing(fresh).await, Some(100));
        // A changed limit gives nothing away here either.
        let raised = Want {
            limit: Limit {
                burst: 1000,
                ..want.limit
            },
            ..want
        };
        assert_eq!(other.passing(raised).await, Some(0));
    });
}

#[test]
fn an_outage_is_met_as_the_policy_says_and_ends() {
    for (policy, meanwhile) in [
        // Its own buckets have followed those of the backend: nothing is given away.
        (OnFailure::Local, Some(0)),
        (OnFailure::Refuse, None),
        (OnFailure::Allow, Some(1000)),
    ] {
        run(async move {
            let folder = TempDir::new().unwrap();
            let valkey = Valkey::start(folder.path(), None);
            let way = Way::to(&valkey.url(), policy, TIMEOUT);
            let want = want("10/hour", 10);
            assert_eq!(way.passing(want).await, Some(10));
            assert_eq!(way.limiter.outage.take(), None);
            valkey.kill();
            assert_eq!(way.passing(want).await, meanwhile, "{policy:?}");
            way.until(false).await;
            assert!(way.limiter.outage.take().is_some());
            assert!(way.limiter.outage.is_under_way());
            let _valkey = Valkey::start(folder.path(), None);
            way.until(true).await;
            assert!(!way.limiter.outage.is_under_way());
            // It has lost its memory: what it says counts.
            assert_eq!(way.passing(want).await, Some(10));
        });
    }
}

#[test]
fn nobody_waits_for_one_that_hangs_but_the_first() {
    run(async {
        let folder = TempDir::new().unwrap();
        let valkey = Valkey::start(folder.path(), None);
        let timeout = Duration::from_millis(300);
        let way = Way::to(&valkey.url(), OnFailure::Allow, timeout);
        let want = want("10/hour", 10);
        way.until(true).await;
        valkey.freeze(true);
        let began = Instant::now();
        assert_eq!(way.passing(want).await, Some(1000));
        assert!(began.elapsed() >= timeout);
        assert!(began.elapsed() < 3 * timeout, "{:?}", began.elapsed());
        valkey.freeze(false);
        way.until(true).await;
    });
}

#[test]
fn a_secret_is_not_shown() {
    let backend = Backend::new("redis://u:geheim@h:1", OnFailure::Local, TIMEOUT).unwrap();
    assert!(!format!("{backend:?}").contains("geheim"));
    let error = Backend::new("http://u:geheim@h", OnFailure::Local, TIMEOUT).unwrap_err();
    assert!(!error.to_string().contains("geheim"));
}

/// Takes of buckets, each with how much, and the rates a day and bursts of the buckets.
type Case = (Vec<(usize, u32)>, Vec<(u32, u32)>);

/// The script is the pure bucket, as far as one clock can be the other: nothing fills within a test.
#[test]
fn the_script_is_the_pure_bucket() {
    let folder = TempDir::new().unwrap();
    let valkey = Valkey::start(folder.path(), None);
    let steps = proptest::collection::vec((0..3_usize, 1..4_u32), 1..30);
    let limits = proptest::collection::vec((1..100_u32, 1..20_u32), 3);
    let key = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 32,
        failure_persistence: None,
        ..Config::default()
    });
    let test = |(steps, limits): Case| {
        key.set(key.get() + 10);
        run(async {
            let way = Way::to(&valkey.url(), OnFailure::Refuse, TIMEOUT);
            let (mut pure, now) = ([0; 3], 1 << 60);
            for (at, count) in steps {
                let (per_day, burst) = limits[at];
                let rate = format!("{per_day}/day").parse().unwrap();
                let limit = Limit { rate, burst };
                let want = Want {
                    key: key.get() + at as u128,
                    limit,
                    count,
                    label: "key",
                };
                let taken = limit.take(&mut pure[at], now, count);
                let answer = way.limiter.ask(&way.connection, &[want]).await;
                let (is_over, standing) = match answer.ok().expect("it answers") {
                    Ok(standing) => (false, standing.unwrap()),
                    Err(over) => (true, over.standing),
                };
                assert_eq!(is_over, taken.retry_after.is_some());
                assert_eq!(standing.remaining, taken.remaining);
                let late = taken.reset_after.saturating_sub(standing.reset_after);
                assert!(late < Duration::from_secs(20), "{late:?}");
            }
        });
        Ok(())
    };
    runner.run(&(steps, limits), test).unwrap();
}
