//! The settings that a process reads at its start alone, as they stand in a file.

use crate::config::File;
use serin_model::manifest::Manifest;

/// The static sections of a `serin.yaml`, as they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(File);

impl Settings {
    /// Takes a file apart.
    pub(crate) fn split(mut file: File) -> (Self, Manifest) {
        let manifest = file.take_manifest();
        (Self(file), manifest)
    }

    /// The names of the sections by which another file would make another process. A file without any static section is a manifest alone and
    /// says nothing about them.
    pub fn changed_in(&self, other: &Self) -> Vec<&'static str> {
        if *other == Self::default() {
            return Vec::new();
        }
        self.0.sections_unlike(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::read_file;

    #[test]
    fn sections_that_differ_are_named_and_a_manifest_alone_has_none() {
        let of = |text: &str| read_file(text, "serin.yaml").unwrap().value.0;
        let running = of("limiter: { redis: env:X }\nadmin: { listen: '127.0.0.1:1' }\n");
        let admin = "admin: { listen: '127.0.0.1:1' }";
        for (file, changed) in [
            // Defaults are what they are, written or not.
            (
                "limiter: { redis: env:X, on_failure: local }\nadmin: { listen: '127.0.0.1:1' }",
                "",
            ),
            ("plans: {}", ""),
            (admin, "limiter"),
            (
                "gateway: { cores: 2 }\naudit: { mode: off }\nlimiter: { redis: env:X }",
                "gateway admin audit",
            ),
            (
                "store: 'sqlite:other.db'\nenvironment: production\nflags: { poll: 2s }\ncontrol: { tick: 2s }",
                "environment admin store flags control limiter",
            ),
        ] {
            assert_eq!(running.changed_in(&of(file)).join(" "), changed, "{file}");
        }
    }
}
