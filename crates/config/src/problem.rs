//! What is wrong with a configuration.

use std::fmt;

/// One thing that is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the value came from: the file's path, the environment variable, `--set`.
    pub place: String,
    /// The key as the person wrote it; empty when the problem concerns the whole place.
    pub key: String,
    /// What is wrong and what to do.
    pub sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "{}: {}", self.place, self.sentence);
        }
        write!(f, "{}: {} {}", self.place, self.key, self.sentence)
    }
}

/// Everything that is wrong with a configuration, one line each. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The problems, in the order: file, environment, flags, what does not fit together.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
