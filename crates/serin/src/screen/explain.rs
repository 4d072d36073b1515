//! Where a request would go, and why, as a table.

use super::{
    line::{BOLD, FAINT, GOOD, Line, ODD},
    parts::{below, standing_of},
};
use anstyle::Style;
use serin_admin::routes::Explained;
use serin_model::{
    name::VersionName,
    route::explain::{EndpointSaid, Explanation},
};

/// Where what is said begins.
const SAID: usize = 11;
/// Endpoints shown at most: those that were chosen from, then the others.
const ENDPOINTS_MAX: usize = 12;

/// All of it, as lines no longer than there is room for.
pub(crate) fn draw(explained: &Explained, columns: usize) -> Vec<String> {
    let said = &explained.explanation;
    let mut lines = vec![
        Line::default()
            .styled(FAINT, "service")
            .to(SAID)
            .styled(BOLD, said.service.as_str()),
    ];
    lines.extend(rules(said, columns));
    lines.extend(key(said, columns));
    lines.extend(places(said, columns));
    lines.extend(endpoints(&said.endpoints));
    for note in &explained.notes {
        lines.extend(below("note", ODD, note, SAID, columns));
    }
    lines.into_iter().map(|line| line.cut(columns)).collect()
}

fn rules(said: &Explanation, columns: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let name_max = said
        .rules
        .iter()
        .map(|rule| rule.name.chars().count())
        .max();
    let name_max = name_max.unwrap_or_default().min(20);
    for (at, rule) in said.rules.iter().enumerate() {
        let label = if at == 0 { "rules" } else { "" };
        let (style, word) = if rule.fits {
            (GOOD, "fits")
        } else {
            (FAINT, "-")
        };
        let head = format!("{:>4}  {:<name_max$}  ", rule.priority, rule.name);
        let column = SAID + head.chars().count() + "fits  ".len();
        let room = columns.saturating_sub(column).max(20);
        for (part_at, part) in textwrap::wrap(&rule.why, room).iter().enumerate() {
            let line = if part_at == 0 {
                let line = Line::default().styled(FAINT, label);
                let line = line.text(" ".repeat(SAID - label.len())).text(&head);
                line.styled(style, format!("{word:<4}  "))
            } else {
                Line::default().text(" ".repeat(column))
            };
            lines.push(line.text(part));
        }
    }
    if said.rules_not_asked > 0 {
        let label = if lines.is_empty() { "rules" } else { "" };
        let more = format!("{} below are not asked", said.rules_not_asked);
        let line = Line::default().styled(FAINT, label);
        lines.push(
            line.text(" ".repeat(SAID - label.len()))
                .styled(FAINT, more),
        );
    }
    if !said.rules_otherwise.is_empty() {
        let text = format!(
            "{}, which fits if a server reads the request otherwise than it is written: what it refuses and limits holds too",
            said.rules_otherwise.join(", ")
        );
        lines.extend(below("also", ODD, &text, SAID, columns));
    }
    if let Some(limit) = &said.limit {
        lines.extend(below("limit", FAINT, limit, SAID, columns));
    }
    lines
}

fn key(said: &Explanation, columns: usize) -> Vec<Line> {
    if said.refusal.is_some() {
        return Vec::new();
    }
    let key = match (&said.key.value, &said.key.hash) {
        (Some(value), Some(hash)) => format!("{}: {value} (key {hash})", said.key.source),
        (Some(value), None) => format!("{}: {value}", said.key.source),
        (None, _) => format!("{}: another key each time", said.key.source),
    };
    let mut lines = below("caller by", FAINT, &key, SAID, columns);
    if let Some(bucket) = &said.bucket {
        let text = format!(
            "{} of 0 to 9999; the candidate has those below {} ({}); rollout {}",
            bucket.bucket, bucket.below, bucket.share, bucket.rollout
        );
        lines.extend(below("bucket", FAINT, &text, SAID, columns));
    }
    lines
}

fn places(said: &Explanation, columns: usize) -> Vec<Line> {
    let place = |label: &str, name: Option<&str>, why: &str| {
        let name = name.map_or_else(|| "-".to_owned(), ToOwned::to_owned);
        let mut lines = vec![
            Line::default()
                .styled(FAINT, label)
                .to(SAID)
                .styled(BOLD, name),
        ];
        if !why.is_empty() {
            lines.extend(below("", FAINT, why, SAID, columns));
        }
        lines
    };
    let version = said.version.as_ref().map(VersionName::as_str);
    let mut lines = place("version", version, &said.version_why);
    if said.refusal.is_none() {
        lines.extend(place(
            "endpoint",
            said.endpoint.as_deref(),
            &said.endpoint_why,
        ));
    }
    for chance in &said.chances {
        let endpoint = chance.endpoint.as_deref().unwrap_or("refused");
        let text = format!(
            "about {:>5.1} %  {}  {endpoint}",
            chance.percent, chance.version
        );
        lines.push(Line::default().text(" ".repeat(SAID)).text(text));
    }
    lines
}

fn endpoints(endpoints: &[EndpointSaid]) -> Vec<Line> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let mut ordered: Vec<_> = endpoints.iter().collect();
    ordered.sort_by_key(|endpoint| (!endpoint.chosen, !endpoint.considered));
    let text = |endpoint: &EndpointSaid| (standing(endpoint), weight(endpoint));
    let wide = |words: usize| words + 2;
    let said: Vec<_> = ordered.iter().map(|endpoint| text(endpoint)).collect();
    let column = said.iter().map(|((_, words), _)| words.len()).max();
    let column = SAID + 2 + wide(column.unwrap_or_default().max("STANDING".len()));
    let is_of_one = endpoints
        .windows(2)
        .all(|pair| pair[0].version == pair[1].version);
    let mut lines = vec![
        Line::default()
            .text(" ".repeat(SAID + 2))
            .styled(FAINT, "STANDING")
            .to(column)
            .styled(FAINT, "OPEN   WEIGHT    ENDPOINT"),
    ];
    for (endpoint, ((style, words), weight)) in ordered.iter().zip(said).take(ENDPOINTS_MAX) {
        let mark = if endpoint.chosen { "> " } else { "  " };
        let line = Line::default()
            .text(" ".repeat(SAID))
            .styled(GOOD, mark)
            .styled(style, words)
            .to(column)
            .text(format!("{:<5}  {weight:<8}  ", endpoint.in_flight));
        let line = if is_of_one {
            line
        } else {
            line.text(format!("{}  ", endpoint.version))
        };
        lines.push(line.text(&endpoint.url));
    }
    if ordered.len() > ENDPOINTS_MAX {
        let more = format!("and {} more", ordered.len() - ENDPOINTS_MAX);
        lines.push(
            Line::default()
                .text(" ".repeat(SAID + 2))
                .styled(FAINT, more),
        );
    }
    lines
}

fn weight(endpoint: &EndpointSaid) -> String {
    let whole = f64::from(endpoint.weight);
    if endpoint.weight_now < whole {
        format!("{:.1} of {}", endpoint.weight_now, endpoint.weight)
    } else {
        endpoint.weight.to_string()
    }
}

fn standing(endpoint: &EndpointSaid) -> (Style, String) {
    let words = [
        (!endpoint.healthy, "unhealthy"),
        (endpoint.breaker_open, "breaker open"),
        (endpoint.ejected, "ejected"),
        (endpoint.draining, "draining"),
        (
            endpoint.weight_now < f64::from(endpoint.weight),
            "warming up",
        ),
    ];
    standing_of(&words)
}

#[cfg(test)]
mod tests;
