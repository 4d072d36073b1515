//! Lists that may be long, part by part.

/// Items in an answer unless asked.
const LIMIT_DEFAULT: usize = 1000;
/// Most items in an answer: a few megabytes.
const LIMIT_MAX: usize = 10_000;

/// As many as an answer carries.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Whether there are others behind them.
    pub(super) more: bool,
}

impl<T> Page<T> {
    pub(super) fn of(mut all: impl Iterator<Item = T>, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let items = all.by_ref().take(limit).collect();
        Self {
            items,
            more: all.next().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_and_says_whether_there_is_more() {
        for (limit, all, len, more) in [
            (None, 1000, 1000, false),
            (None, 1001, 1000, true),
            (Some(0), 2, 1, true),
            (Some(usize::MAX), 10_001, LIMIT_MAX, true),
        ] {
            let page = Page::of(0..all, limit);
            assert_eq!(
                (page.items.len(), page.more),
                (len, more),
                "{limit:?} {all}"
            );
        }
    }
}
