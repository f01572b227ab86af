//! The flags that every daemon takes.

use std::path::PathBuf;

use clap::Args;

use crate::problem::{ConfigErrors, Problem};
use crate::settings::Config;

/// The flags of the configuration; a daemon flattens them into its own.
///
/// With `check_config` a daemon calls [`Arguments::load`], prints [`Config::describe`] or the
/// errors, and exits without starting.
#[derive(Debug, Clone, Default, Args)]
pub struct Arguments {
    /// The configuration file, JSON; without one, the defaults hold
    #[arg(long, value_name = "FILE", env = "CONFIG")]
    pub config: Option<PathBuf>,

    /// Sets one key, over environment and file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,

    /// Reports everything that is wrong with the configuration, or prints it, and exits
    #[arg(long)]
    pub check_config: bool,
}

impl Arguments {
    /// The configuration from these flags, the process's environment and the file that they name.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem there is.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        let mut environment = Vec::new();
        let mut unreadable = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => environment.push((name, value)),
                Err(_) if name.starts_with("LEEKY_") => unreadable.push(Problem {
                    place: "environment".to_owned(),
                    key: name,
                    sentence: "is not UTF-8".to_owned(),
                }),
                Err(_) => {}
            }
        }
        let file = self
            .config
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        let loaded = Config::load(file, environment.into_iter(), &self.set);
        if unreadable.is_empty() {
            return loaded;
        }
        let mut problems = loaded
            .err()
            .map(|errors| errors.problems)
            .unwrap_or_default();
        problems.extend(unreadable);
        Err(ConfigErrors { problems })
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err(format!(
            "{text:?} is not KEY=VALUE, for example ElectTimeoutMin=750"
        )),
    }
}
