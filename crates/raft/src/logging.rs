//! What the daemon says: human lines or JSON objects on standard output, at a level that can be
//! changed while it runs.
//!
//! The seed's names of events stay findable: every line of `say!` carries one, in brackets for
//! people and as the field `event` in JSON. Events that happen per entry are at debug or trace.

use std::fmt;
use std::sync::OnceLock;

use anyhow::Context as _;
use config::{Config, LogFormat};
use raft_core::NodeId;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Logs one of the seed's events: level, name, then as in `format!`.
#[macro_export]
macro_rules! say {
    ($level:ident, $event:literal, $($message:tt)+) => {
        tracing::$level!(event = $event, $($message)+)
    };
}

/// Changes the level while the daemon runs.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    /// Takes a filter as `LogLevel` has it.
    ///
    /// # Errors
    /// The sentence says what is wrong with the filter; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = EnvFilter::builder()
            .parse(filter)
            .map_err(|error| format!("{filter:?} is no log level: {error}"))?;
        self.0.reload(parsed).map_err(|error| error.to_string())
    }
}

static PID: OnceLock<u64> = OnceLock::new();

/// Names the node in every later line.
pub fn set_pid(node: NodeId) {
    let _ = PID.set(pid(node));
}

/// The node's place on `member`'s ring: what people know it by. The ring's hash is part of
/// `member`'s protocol; the cores share no code, so it stands here once more.
pub fn pid(node: NodeId) -> u64 {
    fn mix(value: u64) -> u64 {
        let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    mix(mix((node.0 >> 64) as u64).wrapping_add(node.0 as u64))
}

/// Starts logging for the process. Called once, before anything is said.
///
/// # Errors
/// When the process logs already.
pub fn start(config: &Config) -> anyhow::Result<LevelHandle> {
    let filter = EnvFilter::builder()
        .parse(&config.log_level)
        .with_context(|| format!("LogLevel {:?} is no log level", config.log_level))?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true))
            .try_init(),
        LogFormat::Human => registry
            .with(tracing_subscriber::fmt::layer().event_format(Human))
            .try_init(),
    }
    .context("logging has been started already")?;
    Ok(LevelHandle(handle))
}

/// `time level [RAFT] [PID=n] [EVENT]: message field=value`
struct Human;

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let mut line = Line::default();
        event.record(&mut line);
        write!(writer, " {:>5} [RAFT]", event.metadata().level())?;
        if let Some(pid) = PID.get() {
            write!(writer, " [PID={pid:016x}]")?;
        }
        match line.event {
            Some(name) => write!(writer, " [{name}]")?,
            None => write!(writer, " [{}]", event.metadata().target())?,
        }
        writeln!(writer, ": {}{}", line.message, line.fields)
    }
}

#[derive(Default)]
struct Line {
    event: Option<String>,
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        // Writing into a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
