//! `raft-client snapshot save|inspect|restore`

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use raft_disk::restore::{self, RESTORE_FILE};
use raft_disk::{Saving, SnapshotInfo, SnapshotReader};
use serde::Serialize;

use super::Output;
use crate::client::Client;
use crate::error::ClientError;
use crate::exit_codes::ExitCode;

/// Saves the replicated state to a file, shows such a file, begins a new cluster with it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raft-client snapshot save pizza.snapshot
  raft-client snapshot inspect pizza.snapshot
  raft-client snapshot restore pizza.snapshot --data /var/lib/raft-1

`raft-client snapshot restore --help` says how a lost cluster comes back.")]
pub struct Snapshot {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Save(Save),
    Inspect(Inspect),
    Restore(Restore),
}

/// Saves a snapshot of any node, which holds all that was acknowledged before
#[derive(Debug, Args)]
#[command(after_help = "\
The node that answers takes a snapshot now, unless its newest one holds everything already. The file
is checked as a whole before it gets its name; while it grows it is called FILE.part. A transfer that
is cut begins again, at another node if there is one. All of it has to be done within --timeout: give
a large state more than the 5 seconds.

Example:
  raft-client snapshot save pizza.snapshot --timeout 60s")]
struct Save {
    /// Where to; it must not exist yet
    file: PathBuf,

    /// Replace FILE, once the new one is complete
    #[arg(long)]
    force: bool,
}

/// Checks every byte of a saved snapshot, and shows what it is; asks no node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raft-client snapshot inspect pizza.snapshot
  raft-client snapshot inspect pizza.snapshot --json")]
struct Inspect {
    /// The saved snapshot
    file: PathBuf,

    /// The same as one JSON object
    #[arg(long)]
    json: bool,
}

/// Puts a saved snapshot where a node that has never run begins a new cluster with it; asks no node
#[derive(Debug, Args)]
#[command(after_help = "\
For a cluster that is lost for good: as long as a majority of its voters can be started again, start
them instead, and nothing is lost.

What comes back is the state, as the beginning of a new cluster: it has another cluster_id, and nobody
is in it but the node that restores. What was written behind the snapshot is gone. All sessions have
expired. Nothing of the old cluster may be started beside it.

1. raft-client snapshot restore FILE --data DIR, for the node that is the first of Introducers (or
   has FoundAlone). DIR is its DataDir, and must hold nothing of any node. Its processes must be
   allowed to read and remove what is put there.
2. Start this node first: member, raft, state-machine. It takes entries at once.
3. Start the others with empty data directories. They join as in any cluster.

Example:
  raft-client snapshot restore pizza.snapshot --data /var/lib/raft-1")]
struct Restore {
    /// The saved snapshot
    file: PathBuf,

    /// The data directory of the node, made if it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

impl Snapshot {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        match &self.what {
            What::Save(save) => save.run(client).await,
            What::Inspect(inspect) => inspect.run(),
            What::Restore(restore) => restore.run(),
        }
    }
}

impl Save {
    async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let mut saving = Saving::begin(&self.file, self.force)?;
        let info = client.save_snapshot(&mut saving).await?;
        let sentence = format!(
            "Saved the state {}: {} bytes in {}",
            as_of(&info),
            info.file_bytes,
            self.file.display()
        );
        Ok(Output::line(sentence.as_bytes()))
    }
}

impl Inspect {
    fn run(&self) -> Result<Output, ClientError> {
        let found = Found::in_file(&self.file)?;
        let text = if self.json {
            let json = serde_json::to_string_pretty(&found);
            json.map_err(|error| ClientError::Io(error.to_string()))? + "\n"
        } else {
            found.lines()
        };
        Ok(Output {
            stdout: text.into_bytes(),
            stderr: Vec::new(),
            code: ExitCode::Ok,
        })
    }
}

impl Restore {
    fn run(&self) -> Result<Output, ClientError> {
        let info = restore::place(&self.file, &self.data)?;
        let sentence = format!(
            "The state {} waits in {}\n\
             Now start this node first, as the first introducer or with FoundAlone: it begins a new \
             cluster. Then start the others with empty data directories: they join. Sessions of the old \
             cluster have expired",
            as_of(&info),
            self.data.join(RESTORE_FILE).display()
        );
        Ok(Output::line(sentence.as_bytes()))
    }
}

fn as_of(info: &SnapshotInfo) -> String {
    format!(
        "as of entry {} (term {}) of cluster {}",
        info.meta.position.index, info.meta.position.term, info.meta.cluster_id
    )
}

/// What an intact file is.
#[derive(Serialize)]
struct Found {
    index: u64,
    term: u64,
    cluster_id: String,
    log_time_ms: u64,
    format: String,
    file_bytes: u64,
    state_bytes: u64,
    chunks: u64,
    checksum: String,
    sessions: usize,
    configuration_index: u64,
    voters: Vec<String>,
    outgoing: Vec<String>,
    learners: Vec<String>,
    removed: Vec<String>,
    reason: String,
}

impl Found {
    fn in_file(path: &Path) -> Result<Found, ClientError> {
        let reader = SnapshotReader::of_file(path)?;
        reader.verify()?;
        let sessions = reader.session_count().map_err(|error| {
            ClientError::Damaged(format!("the snapshot {}: {error}", path.display()))
        })?;
        let (info, meta) = (reader.info(), reader.meta());
        let configuration = &meta.configuration;
        let ids = |nodes: &std::collections::BTreeSet<raft_core::NodeId>| {
            nodes.iter().map(ToString::to_string).collect()
        };
        Ok(Found {
            index: meta.position.index,
            term: meta.position.term,
            cluster_id: meta.cluster_id.to_string(),
            log_time_ms: meta.log_time_ms,
            format: info.format.clone(),
            file_bytes: info.file_bytes,
            state_bytes: info.application_bytes,
            chunks: reader.chunk_count(),
            checksum: format!("{:08x}", info.checksum),
            sessions,
            configuration_index: meta.configuration_index,
            voters: ids(&configuration.voters),
            outgoing: ids(&configuration.outgoing),
            learners: ids(&configuration.learners),
            removed: ids(&configuration.removed),
            reason: configuration.reason.clone(),
        })
    }

    fn lines(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<14} {value}");
        };
        line("index", &self.index);
        line("term", &self.term);
        line("cluster", &self.cluster_id);
        line("log time", &format_args!("{} ms", self.log_time_ms));
        line("format", &self.format);
        let (file, state) = (self.file_bytes, self.state_bytes);
        line("bytes", &format_args!("{file}, {state} of the state"));
        line("chunks", &self.chunks);
        line("checksum", &self.checksum);
        line("sessions", &self.sessions);
        let (at, why) = (self.configuration_index, &self.reason);
        line("configuration", &format_args!("of entry {at}: {why}"));
        for (standing, nodes) in [
            ("voter", &self.voters),
            ("outgoing voter", &self.outgoing),
            ("learner", &self.learners),
            ("removed", &self.removed),
        ] {
            for node in nodes {
                line(standing, node);
            }
        }
        text
    }
}
