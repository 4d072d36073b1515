//! Versions of the public API: what stands behind `/v1/tools`, and for how long.

use crate::name::ServiceName;
use jiff::{Timestamp, civil::Date, fmt::rfc2822::DateTimePrinter, tz::Offset};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The name of a version: `v1`, `v2`. The newest also answers below `/api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion(pub u16);

/// A text is not the name of an API version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an API version: write `v1`, `v2` and so on")]
pub struct ApiVersionError(String);

impl FromStr for ApiVersion {
    type Err = ApiVersionError;

    fn from_str(text: &str) -> Result<Self, ApiVersionError> {
        let number = text
            .strip_prefix('v')
            .filter(|digits| !digits.starts_with('0') && !digits.starts_with('+'));
        number
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| ApiVersionError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Serialize for ApiVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// One version of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSpec {
    /// The service whose tools it has.
    pub service: ServiceName,
    /// Its tools, names or beginnings with a `*`. None: all that the service has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Since when it has been announced that it will end.
    #[serde(
        default,
        deserialize_with = "date",
        skip_serializing_if = "Option::is_none"
    )]
    pub announced: Option<Date>,
    /// From when on its answers carry `Deprecation` (RFC 9745).
    #[serde(
        default,
        deserialize_with = "date",
        skip_serializing_if = "Option::is_none"
    )]
    pub deprecated: Option<Date>,
    /// From when on it answers 410; said before in `Sunset` (RFC 8594).
    #[serde(
        default,
        deserialize_with = "date",
        skip_serializing_if = "Option::is_none"
    )]
    pub sunset: Option<Date>,
    /// Where people read how to move on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guide: Option<String>,
}

/// Reads a date; what to write stands in the refusal.
fn date<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Date>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        D::Error::custom(format!(
            "`{text}` is not a date; write year, month and day, such as `2027-05-10`"
        ))
    })
}

/// What the answers of a version say about its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// The value of `Deprecation` (RFC 9745): `@` and the seconds since 1970.
    pub deprecation: Option<String>,
    /// The value of `Sunset` (RFC 8594): a date as HTTP writes it.
    pub sunset: Option<String>,
    /// The values of `Link`.
    pub links: Vec<String>,
    /// Its time is over.
    pub has_ended: bool,
}

impl ApiSpec {
    /// Whether a tool of its service belongs to it.
    pub fn has(&self, tool: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => tool.starts_with(beginning),
            None => pattern == tool,
        };
        self.tools.is_empty() || self.tools.iter().any(fits)
    }

    /// Whether its time is over: from the beginning of its day of sunset on, in UTC.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.sunset.is_some_and(|sunset| begin(sunset) <= now)
    }

    /// What its answers say about its end. `successor` is where the same stands in the newest version, if that is another one.
    ///
    /// Its end is said from the announcement on; where none is given, from its deprecation on; where that is not given either,
    /// always.
    pub fn notice(&self, now: Timestamp, successor: Option<&str>) -> Notice {
        let is_past = |date: Option<Date>| date.is_some_and(|date| begin(date) <= now);
        let has_ended = self.has_ended(now);
        let is_deprecated = is_past(self.deprecated);
        let is_told = match (self.announced, self.deprecated) {
            (None, None) => self.sunset.is_some(),
            (announced, _) => is_past(announced) || is_deprecated || has_ended,
        };
        if !is_told {
            return Notice::default();
        }
        let deprecation = self.deprecated.filter(|_| is_deprecated);
        let guide = |relation: &str| {
            let guide = self.guide.as_deref()?;
            Some(format!("<{guide}>; rel=\"{relation}\""))
        };
        let links = [
            guide("deprecation").filter(|_| is_deprecated),
            guide("sunset").filter(|_| self.sunset.is_some()),
            // RFC 5829.
            successor.map(|path| format!("<{path}>; rel=\"successor-version\"")),
        ];
        Notice {
            deprecation: deprecation.map(|date| format!("@{}", begin(date).as_second())),
            sunset: self.sunset.map(http_date),
            links: links.into_iter().flatten().collect(),
            has_ended,
        }
    }
}

/// The newest version whose time is not over; where that of all is, the newest. Nothing where there are no versions.
pub fn newest(
    api: &BTreeMap<ApiVersion, ApiSpec>,
    now: Timestamp,
) -> Option<(ApiVersion, &ApiSpec)> {
    let mut newest_first = api.iter().rev();
    let is_open = |(_, spec): &(&ApiVersion, &ApiSpec)| !spec.has_ended(now);
    let found = newest_first.clone().find(is_open);
    found
        .or_else(|| newest_first.next())
        .map(|(version, spec)| (*version, spec))
}

/// The numbers of the versions whose time is not over, the oldest first.
pub fn supported(api: &BTreeMap<ApiVersion, ApiSpec>, now: Timestamp) -> Vec<u16> {
    let open = api.iter().filter(|(_, spec)| !spec.has_ended(now));
    open.map(|(version, _)| version.0).collect()
}

/// When a day begins, in UTC.
fn begin(date: Date) -> Timestamp {
    let midnight = date.at(0, 0, 0, 0);
    // Only the very ends of the calendar have no such moment.
    Offset::UTC.to_timestamp(midnight).unwrap_or(Timestamp::MAX)
}

/// A day's beginning as HTTP writes it (RFC 9110, section 5.6.7).
fn http_date(date: Date) -> String {
    let printer = DateTimePrinter::new();
    // Years before 0 are no dates of HTTP, and nothing ends in them.
    printer
        .timestamp_to_rfc9110_string(&begin(date))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;
    use proptest::prelude::*;

    fn spec() -> ApiSpec {
        ApiSpec {
            service: "tools".parse().unwrap(),
            tools: vec![],
            announced: Some("2026-02-08".parse().unwrap()),
            deprecated: Some("2026-05-10".parse().unwrap()),
            sunset: Some("2026-11-10".parse().unwrap()),
            guide: Some("https://docs.example/v2".to_owned()),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_version_says_more_the_nearer_its_end_is() {
        let spec = spec();
        let notice = |now: &str| spec.notice(at(now), Some("/v2/tools"));
        assert_eq!(notice("2026-02-07T23:59:59Z"), Notice::default());
        let announced = Notice {
            deprecation: None,
            sunset: Some("Tue, 10 Nov 2026 00:00:00 GMT".to_owned()),
            links: vec![
                "<https://docs.example/v2>; rel=\"sunset\"".to_owned(),
                "</v2/tools>; rel=\"successor-version\"".to_owned(),
            ],
            has_ended: false,
        };
        assert_eq!(notice("2026-02-08T00:00:00Z"), announced);
        let deprecated = Notice {
            deprecation: Some("@1778371200".to_owned()),
            links: vec![
                "<https://docs.example/v2>; rel=\"deprecation\"".to_owned(),
                "<https://docs.example/v2>; rel=\"sunset\"".to_owned(),
                "</v2/tools>; rel=\"successor-version\"".to_owned(),
            ],
            ..announced
        };
        assert_eq!(notice("2026-05-10T00:00:00Z"), deprecated);
        assert_eq!(notice("2026-11-09T23:59:59Z"), deprecated);
        let ended = Notice {
            has_ended: true,
            ..deprecated
        };
        assert_eq!(notice("2026-11-10T00:00:00Z"), ended);
    }

    #[test]
    fn a_sunset_without_other_dates_is_always_said() {
        let spec = ApiSpec {
            announced: None,
            deprecated: None,
            guide: None,
            ..spec()
        };
        let notice = spec.notice(at("2020-01-01T00:00:00Z"), None);
        assert_eq!(
            notice.sunset.as_deref(),
            Some("Tue, 10 Nov 2026 00:00:00 GMT")
        );
        assert_eq!((notice.deprecation, notice.links), (None, vec![]));
    }

    #[test]
    fn a_version_has_the_tools_that_its_patterns_name() {
        let mut spec = spec();
        assert!(spec.has("anything"));
        spec.tools = vec!["search".to_owned(), "get_*".to_owned()];
        for (tool, has) in [
            ("search", true),
            ("search_more", false),
            ("get_", true),
            ("get_entry", true),
            ("forget_entry", false),
            ("", false),
        ] {
            assert_eq!(spec.has(tool), has, "{tool}");
        }
    }

    #[test]
    fn the_newest_that_is_open_is_the_one_without_a_number() {
        let open = ApiSpec {
            sunset: None,
            ..spec()
        };
        let api = |specs: [(u16, &ApiSpec); 2]| {
            let specs = specs.map(|(version, spec)| (ApiVersion(version), spec.clone()));
            BTreeMap::from(specs)
        };
        let now = at("2026-11-21T00:00:00Z");
        for (specs, is, has) in [
            ([(1, &open), (2, &open)], 2, &[1, 2][..]),
            ([(1, &spec()), (2, &open)], 2, &[2]),
            ([(1, &open), (2, &spec())], 1, &[1]),
            ([(1, &spec()), (2, &spec())], 2, &[]),
        ] {
            let api = api(specs);
            assert_eq!(newest(&api, now).unwrap().0, ApiVersion(is));
            assert_eq!(supported(&api, now), has);
        }
        assert_eq!(newest(&BTreeMap::new(), now), None);
    }

    prop_compose! {
        fn dates()(first in 0..20_000_i64, gaps in prop::array::uniform3(prop::option::of(0..2_000_i64))) -> [Option<Date>; 3] {
            let mut day = Date::constant(1970, 1, 1) + first.days();
            gaps.map(|gap| gap.map(|gap| { day += gap.days(); day }))
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_said_from_then_on(dates in dates(), moments in prop::array::uniform2(0..3_000_000_000_i64)) {
            let [announced, deprecated, sunset] = dates;
            let spec = ApiSpec { announced, deprecated, sunset, ..spec() };
            let mut moments = moments.map(|second| Timestamp::from_second(second).unwrap());
            moments.sort();
            let [before, after] = moments.map(|now| spec.notice(now, Some("/v2")));
            prop_assert!(before.deprecation.is_none() || before.deprecation == after.deprecation);
            prop_assert!(before.sunset.is_none() || before.sunset == after.sunset);
            prop_assert!(!before.has_ended || after.has_ended);
            prop_assert!(before.links.iter().all(|link| after.links.contains(link)));
        }

        #[test]
        fn who_is_told_of_an_end_is_told_when(dates in dates(), second in 0..3_000_000_000_i64) {
            let [announced, deprecated, sunset] = dates;
            let spec = ApiSpec { announced, deprecated, sunset, ..spec() };
            let now = Timestamp::from_second(second).unwrap();
            let notice = spec.notice(now, None);
            prop_assert_eq!(notice.has_ended, spec.has_ended(now));
            prop_assert!(!notice.has_ended || notice.sunset.is_some());
            if let Some(said) = &notice.sunset {
                prop_assert_eq!(said, &http_date(sunset.unwrap()));
            }
            // A deprecation that is said has come.
            if let Some(said) = &notice.deprecation {
                prop_assert!(said[1..].parse::<i64>().unwrap() <= second);
            }
        }
    }
}
