//! Names that are nearly right.

/// The candidate that was probably meant: the nearest by edits, if at most a third of the letters differ.
///
/// Distance: optimal string alignment (an exchange of neighbours counts once). Names that differ in digits alone, as `v1` and `v3`, are
/// names of different things, and no slips.
pub fn closest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let letters = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
    candidates
        .into_iter()
        .filter(|candidate| letters(candidate) != letters(written))
        .map(|candidate| (strsim::osa_distance(written, candidate), candidate))
        .filter(|(edits, candidate)| edits * 3 <= candidate.chars().count().max(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// What to do about a name that is none of `candidates`.
pub(crate) fn suggestion<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    if let Some(name) = closest(written, candidates.clone()) {
        return format!("did you mean `{name}`?");
    }
    let all: Vec<_> = candidates
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect();
    format!("use one of {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn slips_are_understood_and_strangers_are_not() {
        let fields = ["endpoints", "hold", "share", "path", "v1", "v2.0"];
        for (written, meant) in [
            ("endpoint", Some("endpoints")),
            ("endpionts", Some("endpoints")),
            ("hodl", Some("hold")),
            ("shares", Some("share")),
            ("", None),
            ("v2", None),
            ("v3", None),
            ("v2.1", None),
            ("v2,0", Some("v2.0")),
            ("colour", None),
        ] {
            assert_eq!(closest(written, fields), meant, "{written}");
        }
    }
}
