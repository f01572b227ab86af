//! Log lines: human ones or JSON, with a level that can be changed while the daemon runs.

use std::io::IsTerminal;
use std::sync::Arc;

use config::{Config, LogFormat};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Sets the filter of the log lines; answers with the reason when it is none.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Starts logging to standard output as the configuration says. Once per process.
///
/// # Errors
/// When `LogLevel` is no filter, or the process logs already.
pub fn start(config: &Config) -> anyhow::Result<SetLogLevel> {
    let filter = EnvFilter::try_new(&config.log_level)
        .map_err(|error| anyhow::anyhow!("LogLevel {:?}: {error}", config.log_level))?;
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(filter);
    let lines = match config.log_format {
        LogFormat::Human => fmt::layer()
            .with_ansi(std::io::stdout().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(Arc::new(move |text| {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}
